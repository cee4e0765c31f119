"""Training with labels (`fit`), with a teacher (`distill`), and of several students together (`mutual`): one loop."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import _base, layers, losses
from kdutils._batches import Augment, Batch, Batches, ImageBatches, LoaderBatches, Mix, length, rewound
from kdutils.data import ImageSet, flip_and_shift
from kdutils.layers import Outputs, read
from kdutils.metrics import evaluate, predict

__all__ = ["Term", "distill", "fit", "flip_and_shift", "mutual", "teacher_logits", "teacher_outputs"]

History = dict[str, list[float]]
Optimizer = Literal["sgd", "adamw"]
Average = Literal["probabilities", "logits"]
Teacher = nn.Module | Tensor | Mapping[str, Tensor]
Objective = Callable[[Outputs, Batch], dict[str, Tensor]]  # (student's outputs, batch) -> each term of the loss

PEAK_LR = {"sgd": 0.1, "adamw": 0.002}
WARM_UP = 0.2  # share of the steps over which the learning rate rises to its peak
MOMENTUM = 0.9
TAKEN = {"loss", "kd", "ce", "lr", "seconds", "train_accuracy", "teacher_accuracy", "val_accuracy", "val_nll"}


@dataclass(frozen=True)
class _Settings:
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
    mix: Mix | None = None

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
        if self.mix not in (None, "mixup", "cutmix"):
            raise ValueError(f'mix must be None, "mixup" or "cutmix", got {self.mix!r}.')


@dataclass
class Term:
    """An extra loss between a layer of the student and a layer of a teacher, for :func:`distill`.

    Args:
        name: of the term in the history.
        loss: called with the student's and the teacher's features, as the layers give them, it gives a
            scalar; see :mod:`kdutils.losses`. With `labels`, the labels (N,) come third.
        weight: of the term in the sum, ≥ 0.
        student_layer: dotted path of the student's layer, such as "8" or "stage3.0.relu2"; None: its logits.
        teacher_layer: the same for the teacher.
        projector: what the student's features pass first, and what is trained with the student: a network
            of your own, or "linear" for a fresh linear map (a 1×1 convolution for feature maps) from the
            student's to the teacher's number of channels, built from the first batch of each run.
        labels: whether `loss` wants the labels.
        teacher: which teacher, where there are several.

    Attributes:
        trained: the projector that the latest run trained, or None. To keep it with its student, put both into
            one `nn.ModuleDict` and save that.

    Raises:
        ValueError: for an argument that does not fit.
    """

    name: str
    loss: Callable[..., Tensor]
    weight: float
    student_layer: str | None = None
    teacher_layer: str | None = None
    projector: nn.Module | Literal["linear"] | None = None
    labels: bool = False
    teacher: int = 0
    trained: nn.Module | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name in TAKEN:
            raise ValueError(f"name must be one word that is not in the history already, got {self.name!r:.60}.")
        if not callable(self.loss):
            raise ValueError(f"loss must be a function of two tensors, got {type(self.loss).__name__}.")
        _base.check_number("weight", self.weight, 0)
        for name, path in (("student_layer", self.student_layer), ("teacher_layer", self.teacher_layer)):
            if path is not None and not isinstance(path, str):
                raise ValueError(f"{name} must be a dotted path or None, got {path!r:.60}.")
        if not (self.projector is None or self.projector == "linear" or isinstance(self.projector, nn.Module)):
            raise ValueError(f'projector must be None, "linear" or a torch.nn.Module, got {self.projector!r:.60}.')
        if isinstance(self.teacher, bool) or not isinstance(self.teacher, int) or self.teacher < 0:
            raise ValueError(f"teacher must be an integer of at least 0, got {self.teacher!r:.60}.")

    def _start(self, student: Tensor, teacher: Tensor) -> list[nn.Module]:
        """Build the projector from one batch's features, or take the given one; give what is to be trained."""
        self.trained = self.projector if isinstance(self.projector, nn.Module) else None
        if self.projector == "linear":
            if student.dim() != teacher.dim() or student.dim() not in (2, 3, 4):
                raise ValueError(
                    f"the linear projector of term {self.name!r} needs features (N, D), (N, tokens, D) or (N, C, H, W) "
                    f"on both sides, got {tuple(student.shape)} and {tuple(teacher.shape)}."
                )
            axis = 1 if student.dim() == 4 else -1
            sizes = student.shape[axis], teacher.shape[axis]
            self.trained = nn.Conv2d(*sizes, 1) if student.dim() == 4 else nn.Linear(*sizes)
        return [] if self.trained is None else [self.trained.to(student.device).train()]


def fit(
    model: nn.Module,
    train: ImageSet | Batches,
    *,
    epochs: int,
    batch_size: int = 128,
    augment: Augment = True,
    mix: Mix | None = None,
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
        mix: "mixup" (Zhang et al. 2018, arXiv:1710.09412) blends each image of a batch with another one,
            "cutmix" (Yun et al. 2019, arXiv:1905.04899) pastes a box of another one; the labels are blended
            by the same share, drawn uniformly per batch. ImageSet only.
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

    def terms(seen: Outputs, batch: Batch) -> dict[str, Tensor]:
        logits = losses.at_least_float32(seen["logits"])
        return {"ce": F.cross_entropy(logits, batch.targets, label_smoothing=label_smoothing)}

    settings = _Settings(epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress, mix)
    _check_model_and_data("model", model, train, settings)
    return _run("fit", model, train, terms, {"ce": 1.0}, settings, validation)


def distill(
    student: nn.Module,
    teacher: Teacher | Sequence[Teacher],
    train: ImageSet | Batches,
    *,
    epochs: int,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    ce_weight: float = 0.1,
    terms: Sequence[Term] = (),
    teacher_average: Average = "probabilities",
    batch_size: int = 128,
    augment: Augment = True,
    mix: Mix | None = None,
    seed: int = 0,
    optimizer: Optimizer = "sgd",
    lr: float | None = None,
    weight_decay: float = 5e-4,
    validation: ImageSet | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train `student` on labels and on the teacher's soft labels, with :func:`~kdutils.losses.distillation_loss`.

    The teacher sees exactly the images that the student sees, mixed ones too (Beyer et al. 2022,
    arXiv:2106.05237: "consistent"). It works in eval mode and without gradients, its parameters and
    buffers are never changed, and every part gets its own mode back. With an ImageSet and `augment` False
    or "flip" there are only one or two views of an image, so the teacher's logits are computed once,
    before the first epoch; otherwise, and for features, once per step. To train several students from one
    teacher, compute them yourself with :func:`teacher_outputs` and pass them as `teacher`.

    Args:
        student: as `model` in :func:`fit`.
        teacher: a network that gives logits of the same shape as the student's; or what
            :func:`teacher_logits` (V, N, K) or :func:`teacher_outputs` gave for this very `train` and
            `augment`; or several of these, whose answers are averaged.
        train: as in :func:`fit`.
        epochs: as in :func:`fit`, like the other arguments that are not named here.
        temperature: T > 0 of the soft labels.
        kd_weight: weight of T²·KL(teacher ‖ student), ≥ 0; at 0 it is not computed, and the teacher need
            not have the student's classes.
        ce_weight: weight of the cross-entropy with the labels, ≥ 0.
        terms: further losses on named layers, each a :class:`Term`.
        teacher_average: how several teachers are averaged, see :func:`~kdutils.losses.average_teachers`.

    Returns:
        A history as in :func:`fit`, with the terms "kd", "ce" and each of `terms` (unweighted), and
        "teacher_accuracy", on the very images and labels that the student sees.

    Raises:
        ValueError: as :func:`fit`, and for a teacher that is the student or shares parameters with it,
            logits of different shapes, a temperature, a weight or a layer that does not fit.
        FloatingPointError: as :func:`fit`; the sentence says whether the inputs, the teacher or the
            student were not finite.

    Warns:
        UserWarning: after the first epoch, if the teacher is hardly better than chance on these labels: it
            may be untrained, swapped with the student, fed other inputs, or use another order of classes.
    """
    losses.check_temperature(temperature)
    teachers: list[Teacher] = list(teacher) if isinstance(teacher, list | tuple) else [teacher]  # type: ignore[list-item]
    if not teachers:
        raise ValueError("teacher must be at least one network, got an empty list.")
    terms = list(terms)
    _check_terms(terms, len(teachers), mix)
    losses.check_weights(kd_weight=kd_weight, ce_weight=ce_weight, **{term.name: term.weight for term in terms})
    if teacher_average not in ("probabilities", "logits"):
        raise ValueError(f'teacher_average must be "probabilities" or "logits", got {teacher_average!r:.60}.')
    settings = _Settings(epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress, mix)
    _check_model_and_data("student", student, train, settings)
    sources = []
    for i, each in enumerate(teachers):
        wanted = [t.teacher_layer for t in terms if t.teacher == i and t.teacher_layer]
        sources.append(_Source(_checked_teacher(each, student, train, settings, wanted), wanted))
    for term in terms:
        if term.student_layer is not None:
            layers.check("student_layer", student, term.student_layer)

    projectors = nn.ModuleList()

    def objective(seen: Outputs, batch: Batch) -> dict[str, Tensor]:
        parts = {}
        logits = losses.at_least_float32(seen["logits"])
        if kd_weight:
            answers = [_comparable(logits, outputs) for outputs in batch.teachers]
            batch.soft = answers[0]
            if len(answers) > 1:
                batch.soft = losses.average_teachers(answers, temperature=temperature, average=teacher_average)
            parts["kd"] = losses.kd_loss(logits, batch.soft, temperature)
        parts["ce"] = F.cross_entropy(logits, batch.targets)
        for term in terms:
            ours = seen[term.student_layer or "logits"]
            theirs = batch.teachers[term.teacher][term.teacher_layer or "logits"]
            if batch.first:
                projectors.extend(term._start(ours, theirs))
            ours = term.trained(ours) if term.trained is not None else ours
            parts[term.name] = term.loss(ours, theirs, batch.labels) if term.labels else term.loss(ours, theirs)
            if not isinstance(parts[term.name], Tensor) or parts[term.name].dim():
                raise ValueError(
                    f"the loss of term {term.name!r} must give a scalar tensor, got {parts[term.name]!r:.60}."
                )
        return parts

    weights = {"kd": kd_weight, "ce": ce_weight, **{term.name: term.weight for term in terms}}
    student_layers = [term.student_layer for term in terms if term.student_layer]
    return _run(
        "distill", student, train, objective, weights, settings, validation, sources, student_layers, projectors
    )


def mutual(
    students: Sequence[nn.Module],
    train: ImageSet | Batches,
    *,
    epochs: int,
    temperature: float = 1.0,
    kd_weight: float = 1.0,
    ce_weight: float = 1.0,
    batch_size: int = 128,
    augment: Augment = True,
    seed: int = 0,
    optimizer: Optimizer = "sgd",
    lr: float | None = None,
    weight_decay: float = 5e-4,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train several students at once, each on the labels and on the others' soft labels: no teacher at all.

    Deep mutual learning, Zhang et al. 2018 (arXiv:1706.00384), eq. 8: each student's divergence from every
    other, averaged over the others. All take their step at the same time, where the paper lets one after
    the other step. Build the students with different seeds: equal ones stay equal.

    Args:
        students: two networks or more that give logits of the same shape; trained in place.
        train: as in :func:`fit`, like the other arguments that are not named here.
        temperature: T > 0 of the soft labels (1 in the paper).
        kd_weight: weight of T²·KL(other ‖ student), ≥ 0.
        ce_weight: weight of the cross-entropy with the labels, ≥ 0.

    Returns:
        A history as in :func:`fit`, with "kd", "ce" and "train_accuracy" averaged over the students.

    Raises:
        ValueError, FloatingPointError: as :func:`fit`.
    """
    losses.check_temperature(temperature)
    losses.check_weights(kd_weight=kd_weight, ce_weight=ce_weight)
    settings = _Settings(epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress)
    if not isinstance(students, list | tuple) or len(students) < 2:
        raise ValueError("students must be a list of at least two networks.")
    for student in students:
        _check_model_and_data("students", student, train, settings)
    if len({id(p) for s in students for p in s.parameters()}) < sum(len(list(s.parameters())) for s in students):
        raise ValueError("students must not share parameters: pass separate networks.")
    others = len(students) - 1

    def objective(seen: Outputs, batch: Batch) -> dict[str, Tensor]:
        logits = losses.at_least_float32(seen["logits"])
        pairs = [(i, j) for i in range(others + 1) for j in range(others + 1) if i != j]
        soft = torch.stack([losses.kd_loss(logits[i], logits[j], temperature) for i, j in pairs]).sum() / others
        hard = torch.stack([F.cross_entropy(each, batch.targets) for each in logits]).sum()
        return {"kd": soft / len(logits), "ce": hard / len(logits)}

    # The mean over the students is logged, the sum is minimised: each is to step as if it were alone.
    weights = {"kd": kd_weight * len(students), "ce": ce_weight * len(students)}
    return _run("mutual", _Cohort(students), train, objective, weights, settings, None)


class _Cohort(nn.Module):
    """Several networks as one: logits (M, N, K)."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logits = [member(x) for member in self.members]
        for other in logits[1:]:
            if other.shape != logits[0].shape:
                raise ValueError(
                    "students must give logits of the same shape (N, K), "
                    f"got {tuple(logits[0].shape)} and {tuple(other.shape)}."
                )
        return torch.stack(logits)


def teacher_logits(teacher: nn.Module, train: ImageSet, augment: Literal[False, "flip"] = False) -> Tensor:
    """The teacher's logits for every view of every image: float32 (V, N, K), on the CPU.

    V is 1 without augmentation and 2 with "flip" (as it is, mirrored). The rows belong to the images of
    `train` in their order: pass them to :func:`distill` together with this very set.

    Raises:
        ValueError: for another `augment`, since its views are too many to store.
    """
    return teacher_outputs(teacher, train, augment=augment)["logits"]


def teacher_outputs(
    teacher: nn.Module, train: ImageSet, layers: Sequence[str] = (), augment: Literal[False, "flip"] = False
) -> Outputs:
    """As :func:`teacher_logits`, with the outputs of named layers beside "logits": each (V, N, ...), on the CPU.

    Features are large: 64 channels of 7 × 7 for 10,000 images and two views are 250 MB.

    Raises:
        ValueError: as :func:`teacher_logits`, and for an unknown layer.
    """
    if augment not in (False, "flip"):
        raise ValueError(f'augment must be False or "flip" to have few views, got {augment!r}.')
    found: dict[str, list[list[Tensor]]] = {name: [] for name in ("logits", *layers)}
    with read(teacher, layers) as seen:
        for view in [train.images] if not augment else [train.images, train.images.flip(-1)]:
            for chunks in found.values():
                chunks.append([])
            for images in view.split(500):
                logits = predict(teacher, train.normalise(images), batch_size=len(images))
                for name, value in {"logits": logits, **seen}.items():
                    found[name][-1].append(value.detach().float().cpu())
    return {name: torch.stack([torch.cat(chunks) for chunks in views]) for name, views in found.items()}


@dataclass
class _Source:
    """A teacher, as a network or as stored outputs, and the layers that are wanted of it."""

    teacher: nn.Module | Outputs
    layers: Sequence[str]


def _run(
    verb: str,
    model: nn.Module,
    train: ImageSet | Batches,
    objective: Objective,
    weights: dict[str, float],
    settings: _Settings,
    validation: ImageSet | None,
    sources: Sequence[_Source] = (),
    student_layers: Sequence[str] = (),
    projectors: nn.ModuleList | None = None,
) -> History:
    """The run behind `fit`, `distill` and `mutual`: minimise Σ weights[name] · objective[name].

    `objective` may fill `projectors` in the first step; what is in it then is trained with the model.
    """
    device = torch.device(settings.device) if settings.device is not None else _base.device()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_base.seeded(settings.seed))
        stack.enter_context(rewound(train))
        model.to(device)
        asked = [_listen(stack, source, train, settings, device) for source in sources]
        seen = stack.enter_context(layers.read(model, student_layers))
        bar = stack.enter_context(_base.progress(None, verb, settings.progress))
        batches: ImageBatches | LoaderBatches
        if isinstance(train, ImageSet):
            stored = [{} if callable(each) else each for each in asked]
            batches = ImageBatches(
                train, settings.batch_size, settings.augment, settings.mix, settings.seed, device, stored
            )
        else:
            batches = LoaderBatches(train, device)
        loop = _Loop(model, seen, asked, objective, weights, projectors, settings)
        history: History = {}
        for epoch in range(settings.epochs):
            start = time.perf_counter()
            row = loop.epoch(epoch, batches, bar)
            row["seconds"] = time.perf_counter() - start
            if epoch == 0 and settings.mix is None and "teacher_accuracy" in row:
                _warn_near_chance(row["teacher_accuracy"], loop.classes)
            if validation is not None:
                row |= {f"val_{k}": v for k, v in evaluate(model, validation).items() if k in ("accuracy", "nll")}
            for name, value in row.items():
                history.setdefault(name, []).append(value)
            bar.set_postfix(epoch=f"{epoch + 1}/{settings.epochs}", loss=f"{row['loss']:.3f}", refresh=False)
    model.eval()
    return history


def _listen(
    stack: contextlib.ExitStack,
    source: _Source,
    train: ImageSet | Batches,
    settings: _Settings,
    device: torch.device,
) -> Outputs | Callable[[Tensor], Outputs]:
    """The teacher's stored outputs (V, N, ...), or a function that asks it about a batch of inputs."""
    teacher = source.teacher
    if not isinstance(teacher, nn.Module):
        return teacher
    teacher.to(device)
    if isinstance(train, ImageSet) and settings.augment is not True and settings.mix is None and not source.layers:
        return teacher_outputs(teacher, train, augment=settings.augment)  # so few views that each is computed once
    stack.enter_context(_base.eval_mode(teacher))
    seen = stack.enter_context(layers.read(teacher, source.layers))

    def ask(inputs: Tensor) -> Outputs:
        with torch.no_grad():
            return {"logits": teacher(inputs), **seen}

    return ask


class _Loop:
    """One run's state: what is trained, by what, and how far it is."""

    def __init__(
        self,
        model: nn.Module,
        seen: Outputs,
        asked: Sequence[Outputs | Callable[[Tensor], Outputs]],
        objective: Objective,
        weights: dict[str, float],
        projectors: nn.ModuleList | None,
        settings: _Settings,
    ) -> None:
        self.model, self.seen, self.asked, self.projectors = model, seen, asked, projectors
        self.objective, self.weights, self.settings = objective, weights, settings
        self.optimizer: torch.optim.Optimizer | None = None  # made in the first step, when the projectors are known
        self.classes = 0

    def epoch(self, epoch: int, batches: ImageBatches | LoaderBatches, bar: _base.Bar) -> dict[str, float]:
        """One pass over the data; gives the history's row."""
        self.model.train()
        settings = self.settings
        peak = settings.lr if settings.lr is not None else PEAK_LR[settings.optimizer]
        sums: dict[str, Tensor] = {}
        seen = 0
        for step, batch in enumerate(batches):
            steps = batches.steps
            if steps and bar.total is None:
                bar.reset(total=steps * settings.epochs)
            lr = peak * _one_cycle((epoch + (step / steps if steps else 0.5)) / settings.epochs)
            batch.first = epoch == step == 0
            n = len(batch.labels)
            for name, value in self.step(batch, lr, f"in epoch {epoch + 1}, step {step + 1}", step % 50 == 49).items():
                sums[name] = sums.get(name, 0) + value.detach() * n
            seen += n
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

    def step(self, batch: Batch, lr: float, where: str, look: bool) -> dict[str, Tensor]:
        """One step; gives the means over the batch. `look` asks a GPU whether all is finite."""
        look = look or batch.labels.device.type == "cpu"  # asking a GPU makes it wait, so that is done now and then
        batch.teachers = [ask(batch.inputs) if callable(ask) else batch.teachers[i] for i, ask in enumerate(self.asked)]
        logits = self.model(batch.inputs)
        if batch.first or look:
            for each in logits if isinstance(self.model, _Cohort) else [logits]:
                _check_logits(each, batch)
        parts = self.objective({"logits": logits, **self.seen}, batch)
        loss = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        if look:
            _check_finite(loss, parts, logits, batch, where)
        if self.optimizer is None:
            self.classes = logits.shape[-1]
            self.optimizer = _optimizer([self.model, *(self.projectors or [])], self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        hits = {"train_accuracy": logits} | ({"teacher_accuracy": batch.soft} if batch.soft is not None else {})
        accuracies = {name: (z.detach().argmax(-1) == batch.labels).float().mean() for name, z in hits.items()}
        return {"loss": loss, **parts, **accuracies}


def _one_cycle(done: float) -> float:
    """The learning rate as a share of its peak: up in a straight line, then down to zero (Smith 2018)."""
    return max(0.0, min((done + 1e-3) / WARM_UP, (1 - done) / (1 - WARM_UP)))


def _optimizer(models: Iterable[nn.Module], settings: _Settings) -> torch.optim.Optimizer:
    """Weight decay acts on matrices and kernels only, not on biases and normalisation."""
    trained = [p for model in models for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=PEAK_LR["adamw"])
    return torch.optim.SGD(groups, lr=PEAK_LR["sgd"], momentum=MOMENTUM, nesterov=True)


def _check_model_and_data(name: str, model: nn.Module, train: ImageSet | Batches, settings: _Settings) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must be a torch.nn.Module, got {type(model).__name__}.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{name} has no parameter that requires a gradient: there is nothing to train.")
    if isinstance(train, ImageSet):
        if len(train.labels.unique()) < 2:
            raise ValueError(f"train holds one class only ({train.classes[int(train.labels[0])]}): two are wanted.")
    elif not isinstance(train, Iterable):
        raise ValueError(f"train must be an ImageSet or an iterable of batches, got {type(train).__name__}.")
    elif length(train) == 0:
        raise ValueError("train is empty: at least one batch is wanted.")
    if settings.mix is not None and not isinstance(train, ImageSet):
        raise ValueError(f"mix needs train to be an ImageSet, got {type(train).__name__}.")


def _check_terms(terms: Sequence[Term], teachers: int, mix: Mix | None) -> None:
    for term in terms:
        if not isinstance(term, Term):
            raise ValueError(f"terms must be a list of kdutils.Term, got {type(term).__name__}.")
        if term.teacher >= teachers:
            raise ValueError(f"term {term.name!r} asks for teacher {term.teacher}, but there are {teachers}.")
        if term.labels and mix is not None:
            raise ValueError(f"term {term.name!r} wants one label per image, which mix={mix!r} does not leave.")
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ValueError(f"terms must have different names, got {', '.join(names)}.")


def _checked_teacher(
    teacher: Teacher, student: nn.Module, train: ImageSet | Batches, settings: _Settings, wanted: Sequence[str]
) -> nn.Module | Outputs:
    """A teacher that fits: a network, or stored outputs by name."""
    if isinstance(teacher, nn.Module):
        if student is teacher or {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}:
            raise ValueError("teacher is the student, or shares parameters with it: pass a separate, trained network.")
        for path in wanted:
            layers.check("teacher_layer", teacher, path)
        return teacher
    stored = {"logits": teacher} if isinstance(teacher, Tensor) else teacher
    if not isinstance(stored, Mapping) or not all(isinstance(views, Tensor) for views in stored.values()):
        raise ValueError(
            "teacher must be a torch.nn.Module, stored logits (V, N, K) or stored outputs, "
            f"got {type(teacher).__name__}."
        )
    if not isinstance(train, ImageSet) or settings.augment is True or settings.mix is not None:
        raise ValueError('stored teacher logits need train to be an ImageSet, augment False or "flip", and no mix.')
    for path in ("logits", *wanted):
        if path not in stored:
            raise ValueError(_base.nearest("stored teacher output", path, stored))
    views = 2 if settings.augment else 1
    for name, output in stored.items():
        if output.shape[:2] != (views, len(train)) or (output.dim() != 3 and name == "logits"):
            shape = f"({views}, {len(train)}, {'K' if name == 'logits' else '...'})"
            raise ValueError(
                f"stored teacher {name} must have shape {shape} for this train and augment, got {tuple(output.shape)}."
            )
    return dict(stored)


def _check_logits(logits: Tensor, batch: Batch) -> None:
    _check_shape("the model", logits, len(batch.labels))
    losses.check_labels(batch.labels, logits)


def _comparable(logits: Tensor, outputs: Outputs) -> Tensor:
    """A teacher's logits, if they have the shape of the student's."""
    theirs = outputs["logits"]
    _check_shape("the teacher", theirs, len(logits))
    if theirs.shape != logits.shape:
        raise ValueError(
            "student and teacher must give logits of the same shape (N, K), "
            f"got {tuple(logits.shape)} and {tuple(theirs.shape)}."
        )
    return theirs


def _check_shape(who: str, logits: Tensor, n: int) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != n:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{who} must give logits of shape ({n}, K) for this batch, got {got}.")


def _check_finite(loss: Tensor, parts: dict[str, Tensor], logits: Tensor, batch: Batch, where: str) -> None:
    if torch.isfinite(loss):
        return
    if not torch.isfinite(batch.inputs).all():
        raise FloatingPointError(f"inputs hold NaN or infinity {where}: every input must be finite.")
    if not all(torch.isfinite(output).all() for outputs in batch.teachers for output in outputs.values()):
        raise FloatingPointError(f"teacher gives NaN or infinite logits {where}: check its weights.")
    if not torch.isfinite(logits).all():
        raise FloatingPointError(f"the model gives NaN or infinite logits {where}: a lower lr may help.")
    bad = ", ".join(name for name, part in parts.items() if not torch.isfinite(part))
    raise FloatingPointError(f"the loss ({bad}) is not finite {where}: a lower lr may help.")


def _warn_near_chance(accuracy: float, classes: int) -> None:
    chance = 1 / classes
    if accuracy < chance + 0.1 * (1 - chance):
        warnings.warn(
            f"the teacher is right on {accuracy:.1%} of the training images, where guessing gives {chance:.1%}: is it "
            "trained, is it not the student, and does it know these inputs and this order of classes?",
            stacklevel=4,
        )
