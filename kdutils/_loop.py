"""The loop behind `fit`, `distill` and `mutual`: batches in, steps, a history out, and a checkpoint now and then."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from kdutils import _base, _checkpoint, _processes, layers, losses
from kdutils._batches import Augment, Batch, Batches, ImageBatches, LoaderBatches, Mix, rewound
from kdutils.data import ImageSet
from kdutils.layers import Outputs
from kdutils.metrics import evaluate
from kdutils.store import LogitStore

History = dict[str, list[float]]
Optimizer = Literal["sgd", "adamw"]
Precision = Literal["single", "bfloat16"]
Objective = Callable[[Outputs, Batch], dict[str, Tensor]]  # (student's outputs, batch) -> each term of the loss
Ask = Callable[[Tensor], Outputs]  # a teacher, as a function of a batch of inputs

PEAK_LR = {"sgd": 0.1, "adamw": 0.002}
WARM_UP = 0.2  # share of the steps over which the learning rate rises to its peak
MOMENTUM = 0.9
ENOUGH = 50  # steps after which a student ought to be better than chance


@dataclass(frozen=True)
class Settings:
    """The arguments that the verbs share; see :func:`kdutils.fit` for what each one means."""

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
    checkpoint: str | Path | None = None
    checkpoint_every: int = 500
    resume: bool = False
    log_dir: str | Path | None = None
    precision: Precision = "single"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_every"):
            _base.check_positive_int(name, getattr(self, name))
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
        if self.precision not in ("single", "bfloat16"):
            raise ValueError(f'precision must be "single" or "bfloat16", got {self.precision!r}.')
        if self.checkpoint is None:
            if self.resume:
                raise ValueError("resume=True needs checkpoint, the path of the file to go on from.")
        elif not Path(self.checkpoint).parent.is_dir():
            raise ValueError(f"checkpoint must lie in a folder that exists, got {str(self.checkpoint)!r}.")
        elif Path(self.checkpoint).exists() and not self.resume:
            raise ValueError(
                f"checkpoint {self.checkpoint} exists: pass resume=True to go on from it, or delete it to start anew."
            )
        if self.log_dir is not None:
            if Path(self.log_dir).is_file():
                raise ValueError(f"log_dir must be a folder, got the file {str(self.log_dir)!r}.")
            if importlib.util.find_spec("tensorboard") is None:
                raise ImportError("log_dir needs the package tensorboard: pip install tensorboard.")

    def facts(self) -> dict[str, Any]:
        """What must be the same for a run to go on from a checkpoint."""
        leave = {"device", "progress", "checkpoint", "checkpoint_every", "resume", "log_dir"}
        return {name: value for name, value in asdict(self).items() if name not in leave}


@dataclass
class Source:
    """A teacher, as a network or as stored outputs, and the layers that are wanted of it."""

    teacher: nn.Module | Outputs | LogitStore
    layers: Sequence[str]

    def ask(self, stack: contextlib.ExitStack, device: torch.device) -> Ask | None:
        """A function that asks the teacher about a batch of inputs; None if its outputs are stored."""
        teacher = self.teacher
        if not isinstance(teacher, nn.Module):
            return None
        teacher.to(device)
        stack.enter_context(_base.eval_mode(teacher))
        seen = stack.enter_context(layers.read(teacher, self.layers))

        def ask(inputs: Tensor) -> Outputs:
            with torch.no_grad():
                return {"logits": teacher(inputs), **seen}

        return ask


class Cohort(nn.Module):
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


def run(
    verb: str,
    model: nn.Module,
    train: ImageSet | Batches,
    objective: Objective,
    weights: dict[str, float],
    settings: Settings,
    *,
    validation: ImageSet | None = None,
    sources: Sequence[Source] = (),
    student_layers: Sequence[str] = (),
    projectors: nn.ModuleList | None = None,
    facts: Mapping[str, Any] | None = None,
) -> History:
    """Minimise Σ weights[name] · objective[name].

    `objective` may fill `projectors` in the first step; what is in it then is trained with the model. `facts`
    says what else, besides `settings` and `weights`, makes a run the same run.
    """
    device = torch.device(settings.device) if settings.device is not None else _base.device()
    if settings.precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ValueError('precision="bfloat16" needs a GPU that has it (Ampere or newer): use "single" here.')
    rank, size = _processes.join()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_base.seeded(settings.seed + 1_000_003 * rank))  # other dropout in each process
        stack.enter_context(rewound(train))
        model.to(device)
        asked = [source.ask(stack, device) for source in sources]
        seen = stack.enter_context(layers.read(model, student_layers))
        bar = stack.enter_context(_base.progress(None, verb, settings.progress and rank == 0))
        batches: ImageBatches | LoaderBatches
        if isinstance(train, ImageSet):
            teachers = [each.teacher for each in sources]
            stored = [{} if isinstance(each, nn.Module | LogitStore) else each for each in teachers]
            store = next((each for each in teachers if isinstance(each, LogitStore)), None)
            batches = ImageBatches(
                train, settings.batch_size, settings.augment, settings.mix, settings.seed, device, stored, store,
                (rank, size),
            )  # fmt: skip
        else:
            batches = LoaderBatches(train, device)
        loop = _Loop(model, batches, seen, asked, objective, weights, projectors, settings, bar, rank, size)
        if settings.checkpoint is not None:
            prints = {f"teacher {i}": _fingerprint(each.teacher) for i, each in enumerate(sources)}
            loop.identity = {"verb": verb, **settings.facts(), "weights": weights, **(facts or {}), **prints}
            if isinstance(train, ImageSet):
                loop.identity["train"] = _checkpoint.digest(
                    {"images": train.images, "labels": train.labels, "stats": torch.tensor([train.mean, train.std])}
                )
            if Path(settings.checkpoint).exists():
                loop.load(Path(settings.checkpoint))
        log = None
        if settings.log_dir is not None and rank == 0:
            log = stack.enter_context(_log(settings.log_dir, loop.epoch))
        try:
            while loop.epoch < settings.epochs:
                row = loop.one_epoch()
                if validation is not None:
                    found = evaluate(model, validation)
                    row |= {"val_accuracy": found["accuracy"], "val_nll": found["nll"]}
                if log is not None:  # before the checkpoint that counts the epoch as done: killed in between, it is
                    log(row | {"images_per_second": loop.speed}, loop.epoch + 1)  # done and logged again
                loop.finish_epoch(row)
                bar.set_postfix(epoch=f"{loop.epoch}/{settings.epochs}", loss=f"{row['loss']:.3f}", refresh=False)
        except KeyboardInterrupt:
            if not _base.in_notebook():
                raise
            warnings.warn(
                f"interrupted in epoch {loop.epoch + 1} of {settings.epochs}: the model is as far as it came, "
                "and the history holds the complete epochs.",
                stacklevel=3,
            )
    model.eval()
    steps = loop.epoch * (batches.steps or 0)
    if verb == "distill" and settings.mix is None and steps >= ENOUGH:
        row = {name: values[-1] for name, values in loop.history.items()}
        if loop.near_chance(row, "train") and not loop.near_chance(row, "teacher"):
            warnings.warn(
                f"after {steps} steps the student is {loop.beside_guessing(row, 'train')}: it has hardly learned. Try "
                "more steps first (epochs, or a smaller batch_size), then another lr.",
                stacklevel=3,
            )
    return loop.history


class _Loop:
    """One run's state: what is trained, by what, and how far it is."""

    def __init__(
        self,
        model: nn.Module,
        batches: ImageBatches | LoaderBatches,
        seen: Outputs,
        asked: Sequence[Ask | None],
        objective: Objective,
        weights: dict[str, float],
        projectors: nn.ModuleList | None,
        settings: Settings,
        bar: _base.Bar,
        rank: int,
        size: int,
    ) -> None:
        self.rank, self.size = rank, size  # of this process, and how many there are
        self.network = _processes.shared(model, size)
        self.model, self.batches, self.seen, self.asked = model, batches, seen, asked
        self.objective, self.weights, self.projectors = objective, weights, projectors
        self.settings, self.bar = settings, bar
        self.optimizer: torch.optim.Optimizer | None = None  # made in the first step, when the projectors are known
        self.classes = 0
        self.history: History = {}
        self.epoch = self.step = 0  # complete epochs, and complete steps of the one under way
        self.sums: dict[str, Tensor] = {}  # of that epoch, over its images
        self.images, self.seconds = 0, 0.0
        self.speed = 0.0  # images per second of the latest epoch, all processes together
        self.unsaved = 0  # steps since the last checkpoint
        self.identity: dict[str, Any] = {}

    def one_epoch(self) -> dict[str, float]:
        """The rest of one pass over the data; gives the history's row."""
        self.model.train()
        settings, epoch = self.settings, self.epoch
        if self.step == 0:
            self.sums, self.images, self.seconds = {}, 0, 0.0
        peak = settings.lr if settings.lr is not None else PEAK_LR[settings.optimizer]
        start, lr = time.perf_counter() - self.seconds, 0.0
        for batch in self.batches:
            steps = self.batches.steps
            if steps and self.bar.total is None:
                self.bar.reset(total=steps * settings.epochs)
                self.bar.update(epoch * steps + self.step)
            lr = peak * _one_cycle((epoch + (self.step / steps if steps else 0.5)) / settings.epochs)
            batch.first = self.optimizer is None
            n, where = len(batch.labels), f"in epoch {epoch + 1}, step {self.step + 1}"
            for name, value in self.one_step(batch, lr, where, self.step % 50 == 49).items():
                self.sums[name] = self.sums.get(name, 0) + value.detach() * n
            self.images += n
            self.step += 1
            self.unsaved += 1
            self.seconds = time.perf_counter() - start
            self.bar.update()
            if settings.checkpoint is not None and isinstance(self.batches, ImageBatches) and self.due():
                self.save()
        if not self.images:
            raise ValueError(
                f"train gave no batch in epoch {epoch + 1}: pass something that can be iterated again and again, "
                "such as a DataLoader or a list, not a generator."
            )
        images = float(
            _processes.total(torch.tensor(float(self.images), device=_base.model_device(self.model)), self.size)
        )
        self.speed = images / self.seconds
        row = {name: float(_processes.total(value, self.size)) / images for name, value in self.sums.items()}
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(f"the loss became not finite in epoch {epoch + 1}: lower lr, or check the inputs.")
        if epoch == 0 and settings.mix is None and self.near_chance(row, "teacher"):
            warnings.warn(
                f"the teacher is {self.beside_guessing(row, 'teacher')}: is it trained, is it not the student, and "
                "does it know these inputs and this order of classes?",
                stacklevel=4,
            )
        return row | {"lr": lr, "seconds": self.seconds}

    def near_chance(self, row: Mapping[str, float], who: str) -> bool:
        """Whether an accuracy of an epoch's row is there, and hardly better than guessing."""
        chance = 1 / self.classes
        return row.get(f"{who}_accuracy", 1.0) < chance + 0.1 * (1 - chance)

    def beside_guessing(self, row: Mapping[str, float], who: str) -> str:
        """The same in words."""
        found = row[f"{who}_accuracy"]
        return f"right on {found:.1%} of the training images, where guessing gives {1 / self.classes:.1%}"

    def finish_epoch(self, row: Mapping[str, float]) -> None:
        """Enter an epoch's row into the history."""
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        self.epoch, self.step = self.epoch + 1, 0
        if self.settings.checkpoint is not None and (self.epoch == self.settings.epochs or self.due()):
            self.save()

    def one_step(self, batch: Batch, lr: float, where: str, look: bool) -> dict[str, Tensor]:
        """One step; gives the means over the batch. `look` asks a GPU whether all is finite."""
        look = look or batch.labels.device.type == "cpu"  # asking a GPU makes it wait, so that is done now and then
        try:
            logits, parts = self.forward(batch, look)
            loss = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
            if look:
                _check_finite(loss, parts, logits, batch, where)
            if self.optimizer is None:
                self.start(logits)
            assert self.optimizer is not None
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.zero_grad(set_to_none=True)
            with record_function("backward"):
                (loss * batch.share if batch.share != 1 else loss).backward()
                _processes.mean_gradients(self.projectors or (), self.size)
            with record_function("optimizer"):
                self.optimizer.step()
        except torch.cuda.OutOfMemoryError as error:
            raise torch.cuda.OutOfMemoryError(
                f"out of GPU memory {where}: lower batch_size ({len(batch.labels)}), or let the teacher answer "
                f"beforehand (kdutils.teacher_outputs). {error}"
            ) from None
        hits = {"train_accuracy": logits} | ({"teacher_accuracy": batch.soft} if batch.soft is not None else {})
        accuracies = {name: (z.detach().argmax(-1) == batch.labels).float().mean() for name, z in hits.items()}
        return {"loss": loss, **parts, **accuracies}

    def forward(self, batch: Batch, look: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits, and each term of the loss, which is in single precision whatever the networks do."""
        mixed = self.settings.precision == "bfloat16"
        half = torch.autocast(batch.inputs.device.type, torch.bfloat16) if mixed else contextlib.nullcontext()
        with half:
            with record_function("teacher"):
                batch.teachers = [ask(batch.inputs) if ask else batch.teachers[i] for i, ask in enumerate(self.asked)]
            with record_function("student"):
                outputs = {"logits": self.network(batch.inputs), **self.seen}
        if mixed:
            batch.teachers = [{name: value.float() for name, value in each.items()} for each in batch.teachers]
            outputs = {name: value.float() for name, value in outputs.items()}
        logits = outputs["logits"]
        if batch.first or look:
            for each in logits if isinstance(self.model, Cohort) else [logits]:
                check_shape("the model", each, len(batch.labels))
                losses.check_labels(batch.labels, each)
        with record_function("loss"):
            return logits, self.objective(outputs, batch)

    def start(self, logits: Tensor) -> None:
        """Make the optimiser, once it is known what is to be trained."""
        self.classes = logits.shape[-1]
        self.optimizer = _optimizer([self.model, *(self.projectors or [])], self.settings)

    def due(self) -> bool:
        """Whether it is time for a checkpoint. Within an epoch only an ImageSet's order can be taken up again."""
        if isinstance(self.batches, LoaderBatches):
            return self.step == 0
        return self.unsaved >= self.settings.checkpoint_every and self.step != self.batches.steps

    def save(self) -> None:
        """Write all that the rest of the run depends on."""
        assert self.optimizer is not None and self.settings.checkpoint is not None
        parts = {
            "model": self.model.state_dict(),
            "projectors": self.projectors.state_dict() if self.projectors is not None else {},
            "optimizer": _checkpoint.optimizer_state(self.optimizer),
            "sums": self.sums,
            "batches": self.batches.state(),
            "random": {"cpu": torch.get_rng_state()},
        }
        device = _base.model_device(self.model)
        if device.type == "cuda":
            parts["random"]["cuda"] = torch.cuda.get_rng_state(device)
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        if not all(bool(torch.isfinite(value).all()) for name, value in tensors.items() if value.is_floating_point()):
            raise FloatingPointError(
                f"the model became not finite before step {self.step + 1} of epoch {self.epoch + 1}: lower lr. "
                f"{self.settings.checkpoint} holds the last good state."
            )
        names = ("epoch", "step", "images", "seconds", "classes", "history")
        facts = {"run": self.identity, **{name: getattr(self, name) for name in names}}
        if self.rank == 0:
            _checkpoint.write(Path(self.settings.checkpoint), tensors, facts)
        self.unsaved = 0

    def load(self, path: Path) -> None:
        """Take up what :meth:`save` wrote."""
        tensors, facts = _checkpoint.read(path)
        _checkpoint.check_same(path, facts.pop("run"), self.identity)
        self.rehearse()
        assert self.optimizer is not None
        for name, value in facts.items():
            setattr(self, name, value)
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        device = _base.model_device(self.model)
        self.model.load_state_dict(parts["model"])
        if self.projectors:
            self.projectors.load_state_dict(parts["projectors"])
        _checkpoint.restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        self.sums = {name: value.to(device) for name, value in parts["sums"].items()}
        self.batches.restore(parts.get("batches", {}), self.step)
        torch.set_rng_state(parts["random"]["cpu"])
        if device.type == "cuda" and "cuda" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"]["cuda"], device)

    def rehearse(self) -> None:
        """Make the projectors and the optimiser as the first step does; what they hold is replaced afterwards."""
        batch = next(iter(self.batches))
        batch.first = True
        with _base.eval_mode(self.model), torch.no_grad():
            logits, _ = self.forward(batch, look=True)
        self.start(logits)


def _one_cycle(done: float) -> float:
    """The learning rate as a share of its peak: up in a straight line, then down to zero (Smith 2018)."""
    return max(0.0, min((done + 1e-3) / WARM_UP, (1 - done) / (1 - WARM_UP)))


def _optimizer(models: Iterable[nn.Module], settings: Settings) -> torch.optim.Optimizer:
    """Weight decay acts on matrices and kernels only, not on biases and normalisation."""
    trained = [p for model in models for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=PEAK_LR["adamw"])
    return torch.optim.SGD(groups, lr=PEAK_LR["sgd"], momentum=MOMENTUM, nesterov=True)


@contextlib.contextmanager
def _log(folder: str | Path, epoch: int) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """A function that writes one epoch's scalars for TensorBoard, which forgets what it has read of later ones."""
    from torch.utils.tensorboard import SummaryWriter  # an optional package

    with SummaryWriter(folder, purge_step=epoch + 1) as writer:

        def log(row: Mapping[str, float], epoch: int) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, epoch)
            writer.flush()

        yield log


def _fingerprint(teacher: nn.Module | Outputs | LogitStore) -> str:
    if isinstance(teacher, LogitStore):
        return repr(teacher.facts)
    return _checkpoint.digest(teacher.state_dict() if isinstance(teacher, nn.Module) else teacher)


def check_shape(who: str, logits: Tensor, n: int) -> None:
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
