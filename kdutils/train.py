"""Training with labels (`fit`) and with a teacher (`distill`): one loop, two losses."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import _base, losses
from kdutils.data import ImageSet
from kdutils.metrics import evaluate, predict

Batches = Iterable[tuple[Tensor, Tensor]]
History = dict[str, list[float]]
Augment = bool | Literal["flip"]
Optimizer = Literal["sgd", "adamw"]

PEAK_LR = {"sgd": 0.1, "adamw": 0.002}
WARM_UP = 0.2  # share of the steps over which the learning rate rises to its peak
MOMENTUM = 0.9


@dataclass
class Batch:
    """One step's inputs (N, ...), labels (N,) and, where they were computed beforehand, teacher logits (N, K)."""

    inputs: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None


@dataclass(frozen=True)
class Settings:
    """The arguments that `fit` and `distill` share; see :func:`fit` for what each one means."""

    epochs: int
    batch_size: int
    augment: Augment
    seed: int
    optimizer: Optimizer
    lr: float | None
    weight_decay: float
    device: torch.device | str | None
    progress: bool

    def __post_init__(self) -> None:
        _base.check_positive_int("epochs", self.epochs)
        _base.check_positive_int("batch_size", self.batch_size)
        _base.check_seed(self.seed)
        if self.augment not in (True, False, "flip"):
            raise ValueError(f'augment must be True, False or "flip", got {self.augment!r}.')
        if self.optimizer not in PEAK_LR:
            raise ValueError(_base.nearest("optimizer", self.optimizer, PEAK_LR))
        if self.lr is not None:
            _base.check_number("lr", self.lr, 0, above=True)
        _base.check_number("weight_decay", self.weight_decay, 0)


def fit(
    model: nn.Module,
    train: ImageSet | Batches,
    *,
    epochs: int,
    batch_size: int = 128,
    augment: Augment = True,
    seed: int = 0,
    optimizer: Optimizer = "sgd",
    lr: float | None = None,
    weight_decay: float = 5e-4,
    label_smoothing: float = 0.0,
    validation: ImageSet | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train `model` on labels alone, with cross-entropy.

    Args:
        model: takes inputs (N, ...) and gives logits (N, K). It is trained in place and left in eval mode.
        train: an :class:`~kdutils.data.ImageSet` (the fast path: one tensor, batched augmentation), or
            anything that can be iterated again and again for batches (inputs, labels), such as a
            `DataLoader`; those inputs are used as they come, already normalised.
        epochs: passes over the data.
        batch_size: images per step (ImageSet only).
        augment: for an ImageSet: True flips left-right and shifts by up to an eighth of the size,
            "flip" only flips, False does neither. For other iterables it does nothing.
        seed: of the order, the augmentation and dropout. The global random state is left as it was. A
            `DataLoader` with a generator of its own keeps its own order: each run starts at that generator's seed.
        optimizer: "sgd" (Nesterov momentum 0.9) or "adamw"; both under a one-cycle learning rate.
        lr: the peak of the learning rate; 0.1 for SGD and 0.002 for AdamW if None.
        weight_decay: of every parameter with at least two dimensions (no bias, no normalisation).
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        validation: a set to evaluate on after each epoch; it has no influence on the training.
        device: where to train; a GPU if there is one. The model stays there.
        progress: show a bar with the time left.

    Returns:
        A history: per epoch "loss" and its terms (nats, mean over the images seen), "train_accuracy"
        (on the augmented images, while training), "lr", "seconds", and, with `validation`,
        "val_accuracy" and "val_nll".

    Raises:
        ValueError: for any argument that does not fit, in one sentence that names it.
        FloatingPointError: as soon as the loss is not finite, with the epoch and the step.
    """
    _base.check_number("label_smoothing", label_smoothing, 0)
    if label_smoothing >= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing!r}.")

    def terms(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(losses.at_least_float32(logits), batch.labels, label_smoothing=label_smoothing)}

    settings = Settings(epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress)
    _check_model_and_data("model", model, train)
    return _run(model, None, train, terms, {"ce": 1.0}, settings, validation)


def distill(
    student: nn.Module,
    teacher: nn.Module | Tensor,
    train: ImageSet | Batches,
    *,
    epochs: int,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    ce_weight: float = 0.1,
    batch_size: int = 128,
    augment: Augment = True,
    seed: int = 0,
    optimizer: Optimizer = "sgd",
    lr: float | None = None,
    weight_decay: float = 5e-4,
    validation: ImageSet | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train `student` on labels and on the teacher's soft labels, with :func:`~kdutils.losses.distillation_loss`.

    The teacher sees exactly the images that the student sees. It works in eval mode and without
    gradients, its parameters and buffers are never changed, and every part gets its own mode back.
    With an ImageSet and `augment` False or "flip" there are only one or two views of an image, so the
    teacher's logits are computed once, before the first epoch; otherwise once per step. To train several
    students from one teacher, compute them yourself with :func:`teacher_logits` and pass them as `teacher`.

    Args:
        student: as `model` in :func:`fit`.
        teacher: a network that gives logits of the same shape as the student's, or what
            :func:`teacher_logits` gave for this very `train` and `augment`, (V, N, K).
        train: as in :func:`fit`.
        epochs: as in :func:`fit`, like the other arguments that are not named here.
        temperature: T > 0 of the soft labels.
        kd_weight: weight of T²·KL(teacher ‖ student), ≥ 0.
        ce_weight: weight of the cross-entropy with the labels, ≥ 0.

    Returns:
        A history as in :func:`fit`, with the terms "kd" and "ce" (unweighted, nats).

    Raises:
        ValueError: as :func:`fit`, and for a teacher that is the student or shares parameters with it,
            logits of different shapes, a temperature or a weight that does not fit.
        FloatingPointError: as :func:`fit`; the sentence says whether the inputs, the teacher or the
            student were not finite.
    """
    losses.check_temperature(temperature)
    losses.check_weights(kd_weight=kd_weight, ce_weight=ce_weight)
    settings = Settings(epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress)
    _check_model_and_data("student", student, train)
    if isinstance(teacher, nn.Module):
        if student is teacher or {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}:
            raise ValueError("teacher is the student, or shares parameters with it: pass a separate, trained network.")
    elif isinstance(teacher, Tensor):
        _check_stored(teacher, train, settings)
    else:
        raise ValueError(f"teacher must be a torch.nn.Module or stored logits (V, N, K), got {type(teacher).__name__}.")

    def terms(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher_logits is not None  # _run sees to it
        return {
            "kd": losses.kd_loss(logits, batch.teacher_logits, temperature),
            "ce": F.cross_entropy(losses.at_least_float32(logits), batch.labels),
        }

    weights = {"kd": kd_weight, "ce": ce_weight}
    if isinstance(teacher, Tensor):
        return _run(student, teacher, train, terms, weights, settings, validation)
    with _base.eval_mode(teacher):
        return _run(student, teacher, train, terms, weights, settings, validation)


def teacher_logits(teacher: nn.Module, train: ImageSet, augment: Literal[False, "flip"] = False) -> Tensor:
    """The teacher's logits for every view of every image: float32 (V, N, K), on the CPU.

    V is 1 without augmentation and 2 with "flip" (as it is, mirrored). The rows belong to the images of
    `train` in their order: pass them to :func:`distill` together with this very set.

    Raises:
        ValueError: for another `augment`, since its views are too many to store.
    """
    if augment not in (False, "flip"):
        raise ValueError(f'augment must be False or "flip" to have few views, got {augment!r}.')
    views = [train.images] if not augment else [train.images, train.images.flip(-1)]
    chunks = [[predict(teacher, train.normalise(chunk)) for chunk in view.split(1000)] for view in views]
    return torch.stack([torch.cat(chunk) for chunk in chunks])


def _run(
    model: nn.Module,
    teacher: nn.Module | Tensor | None,
    train: ImageSet | Batches,
    terms: Callable[[Tensor, Batch], dict[str, Tensor]],
    weights: dict[str, float],
    settings: Settings,
    validation: ImageSet | None,
) -> History:
    """The loop behind `fit` and `distill`: minimise Σ weights[name] · terms[name]."""
    device = torch.device(settings.device) if settings.device is not None else _base.device()
    with _base.seeded(settings.seed), _rewound(train):
        model.to(device)
        if isinstance(teacher, nn.Module):
            teacher.to(device)
        if isinstance(train, ImageSet):
            batches: _ImageBatches | _LoaderBatches = _ImageBatches(train, settings, device, teacher)
        else:
            batches = _LoaderBatches(train, device)
        optimizer = _optimizer(model, settings)
        history: History = {}
        with _base.progress(None, "fit" if teacher is None else "distill", settings.progress) as bar:
            for epoch in range(settings.epochs):
                start = time.perf_counter()
                row = _epoch(model, teacher, batches, terms, weights, optimizer, settings, epoch, bar)
                row["seconds"] = time.perf_counter() - start
                if validation is not None:
                    row |= {f"val_{k}": v for k, v in evaluate(model, validation).items() if k in ("accuracy", "nll")}
                for name, value in row.items():
                    history.setdefault(name, []).append(value)
                bar.set_postfix(epoch=f"{epoch + 1}/{settings.epochs}", loss=f"{row['loss']:.3f}", refresh=False)
    model.eval()
    return history


def _epoch(
    model: nn.Module,
    teacher: nn.Module | Tensor | None,
    batches: _ImageBatches | _LoaderBatches,
    terms: Callable[[Tensor, Batch], dict[str, Tensor]],
    weights: dict[str, float],
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    epoch: int,
    bar: _base.Bar,
) -> dict[str, float]:
    model.train()
    peak = settings.lr if settings.lr is not None else PEAK_LR[settings.optimizer]
    sums: dict[str, Tensor] = {}
    seen = 0
    for step, batch in enumerate(batches):
        steps = batches.steps
        if steps and bar.total is None:
            bar.reset(total=steps * settings.epochs)
        lr = peak * _one_cycle((epoch + (step / steps if steps else 0.5)) / settings.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if isinstance(teacher, nn.Module) and batch.teacher_logits is None:
            with torch.no_grad():
                batch.teacher_logits = teacher(batch.inputs)
        logits = model(batch.inputs)
        # Asking a GPU for a value makes it wait, so there it is asked only now and then.
        if epoch == step == 0 or batch.labels.device.type == "cpu":
            _check_logits(logits, batch)
        parts = terms(logits, batch)
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        if loss.device.type == "cpu" or step % 50 == 49:
            _check_finite(loss, parts, logits, batch, epoch, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        n = len(batch.labels)
        seen += n
        hits = (logits.detach().argmax(1) == batch.labels).sum()
        for name, value in {"loss": loss * n, **{k: v * n for k, v in parts.items()}, "train_accuracy": hits}.items():
            sums[name] = sums.get(name, 0) + value.detach()
        bar.update()
    if not seen:
        raise ValueError(
            f"train gave no batch in epoch {epoch + 1}: pass something that can be iterated again and again, "
            "such as a DataLoader or a list, not a generator."
        )
    row = {name: float(value) / seen for name, value in sums.items()}
    if not math.isfinite(row["loss"]):
        raise FloatingPointError(f"the loss became not finite in epoch {epoch + 1}: lower lr, or check the inputs.")
    return row | {"lr": lr}


def _one_cycle(done: float) -> float:
    """The learning rate as a share of its peak: up in a straight line, then down to zero (Smith 2018)."""
    return max(0.0, min((done + 1e-3) / WARM_UP, (1 - done) / (1 - WARM_UP)))


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Weight decay acts on matrices and kernels only, not on biases and normalisation."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=PEAK_LR["adamw"])
    return torch.optim.SGD(groups, lr=PEAK_LR["sgd"], momentum=MOMENTUM, nesterov=True)


class _ImageBatches:
    """Shuffled, augmented, normalised batches of an ImageSet; the order depends on the seed alone."""

    def __init__(
        self, data: ImageSet, settings: Settings, device: torch.device, teacher: nn.Module | Tensor | None
    ) -> None:
        self.data = data
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.batch_size, self.augment = settings.batch_size, settings.augment
        self.generator = torch.Generator().manual_seed(settings.seed)  # on the CPU: one order for all devices
        self.steps = math.ceil(len(data) / settings.batch_size)
        self.views: Tensor | None = None
        if isinstance(teacher, Tensor):
            self.views = teacher.to(device)
        elif teacher is not None and self.augment is not True:  # so few views that each is computed once
            self.views = teacher_logits(teacher, data, self.augment).to(device)

    def __iter__(self) -> Iterator[Batch]:
        for index in torch.randperm(len(self.labels), generator=self.generator).split(self.batch_size):
            flip = torch.zeros(len(index), dtype=torch.bool)
            if self.augment:
                flip = torch.rand(len(index), generator=self.generator) < 0.5
            index, flip = index.to(self.labels.device), flip.to(self.labels.device)
            images = self.images[index]
            if self.augment:
                images = flip_and_shift(images, flip, self.generator if self.augment is True else None)
            logits = None if self.views is None else self.views[flip.long(), index]
            yield Batch(self.data.normalise(images), self.labels[index], logits)


def flip_and_shift(images: Tensor, flip: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mirror the images where `flip` (N,) is true and, with a generator, shift each at random.

    The shift is at most an eighth of the height and width in each direction; what comes in from
    outside is 0, which is black. One gather does both, for the whole batch (N, C, H, W).
    """
    n, _, height, width = images.shape
    far = [height // 8, width // 8] if generator is not None else [0, 0]
    padded = F.pad(images, (far[1], far[1], far[0], far[0])).permute(0, 2, 3, 1)
    starts = [torch.zeros(n, 1, dtype=torch.long)] * 2
    if generator is not None:
        starts = [torch.randint(2 * most + 1, (n, 1), generator=generator) for most in far]
    rows = (starts[0] + torch.arange(height)).to(images.device)
    columns = (starts[1] + torch.arange(width)).to(images.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    image = torch.arange(n, device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class _LoaderBatches:
    """The batches of any iterable, checked and moved to the device."""

    def __init__(self, data: Batches, device: torch.device) -> None:
        self.data, self.device = data, device
        self.steps: int | None = _length(data)

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for pair in self.data:
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(x, Tensor) for x in pair)):
                raise ValueError(f"train must give batches (inputs, labels) of two tensors, got {type(pair).__name__}.")
            inputs, labels = pair
            if len(labels) == 0:
                raise ValueError(f"train gave an empty batch in step {count + 1}: at least one image is wanted.")
            yield Batch(inputs.to(self.device), labels.to(self.device))
            count += 1
        self.steps = count or None


@contextlib.contextmanager
def _rewound(data: ImageSet | Batches) -> Iterator[None]:
    """Let a DataLoader that has its own generator start at that generator's seed; its state is given back."""
    generator = getattr(data, "generator", None)
    if not isinstance(generator, torch.Generator):
        yield
        return
    state = generator.get_state()
    generator.manual_seed(generator.initial_seed())
    try:
        yield
    finally:
        generator.set_state(state)


def _length(data: Batches) -> int | None:
    """How many batches `data` says that it has, if it can say it (a stream cannot)."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def _check_model_and_data(name: str, model: nn.Module, train: ImageSet | Batches) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must be a torch.nn.Module, got {type(model).__name__}.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{name} has no parameter that requires a gradient: there is nothing to train.")
    if isinstance(train, ImageSet):
        if len(train.labels.unique()) < 2:
            raise ValueError(f"train holds one class only ({train.classes[int(train.labels[0])]}): two are wanted.")
    elif not isinstance(train, Iterable):
        raise ValueError(f"train must be an ImageSet or an iterable of batches, got {type(train).__name__}.")
    elif _length(train) == 0:
        raise ValueError("train is empty: at least one batch is wanted.")


def _check_stored(logits: Tensor, train: ImageSet | Batches, settings: Settings) -> None:
    if not isinstance(train, ImageSet) or settings.augment is True:
        raise ValueError('stored teacher logits need train to be an ImageSet and augment to be False or "flip".')
    views = 2 if settings.augment else 1
    if logits.dim() != 3 or logits.shape[:2] != (views, len(train)):
        raise ValueError(
            f"stored teacher logits must have shape ({views}, {len(train)}, K) for this train and augment, "
            f"got {tuple(logits.shape)}."
        )


def _check_logits(logits: Tensor, batch: Batch) -> None:
    for name, given in (("the model", logits), ("the teacher", batch.teacher_logits)):
        if given is not None and not (
            isinstance(given, Tensor) and given.dim() == 2 and len(given) == len(batch.labels)
        ):
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{name} must give logits of shape ({len(batch.labels)}, K) for this batch, got {got}.")
    losses.check_labels(batch.labels, logits)
    if batch.teacher_logits is not None and batch.teacher_logits.shape != logits.shape:
        raise ValueError(
            "student and teacher must give logits of the same shape (N, K), "
            f"got {tuple(logits.shape)} and {tuple(batch.teacher_logits.shape)}."
        )


def _check_finite(loss: Tensor, parts: dict[str, Tensor], logits: Tensor, batch: Batch, epoch: int, step: int) -> None:
    if torch.isfinite(loss):
        return
    where = f"in epoch {epoch + 1}, step {step + 1}"
    if not torch.isfinite(batch.inputs).all():
        raise FloatingPointError(f"inputs hold NaN or infinity {where}: every input must be finite.")
    if batch.teacher_logits is not None and not torch.isfinite(batch.teacher_logits).all():
        raise FloatingPointError(f"teacher gives NaN or infinite logits {where}: check its weights.")
    if not torch.isfinite(logits).all():
        raise FloatingPointError(f"the model gives NaN or infinite logits {where}: a lower lr may help.")
    bad = ", ".join(name for name, part in parts.items() if not torch.isfinite(part))
    raise FloatingPointError(f"the loss ({bad}) is not finite {where}: a lower lr may help.")
