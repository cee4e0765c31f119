"""Training with labels (`fit`), with a teacher (`distill`), and of several students together (`mutual`): one loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import _base, _processes, layers, losses
from kdutils._batches import Augment, Batch, Batches, Mix, length
from kdutils._loop import Cohort, History, Optimizer, Precision, Settings, Source, check_shape, run
from kdutils.data import ImageSet, flip_and_shift
from kdutils.layers import Outputs, read
from kdutils.metrics import predict, rows
from kdutils.store import LogitStore

__all__ = ["Step", "Term", "distill", "fit", "flip_and_shift", "mutual", "teacher_logits", "teacher_outputs"]

Average = Literal["probabilities", "logits"]
Teacher = nn.Module | Tensor | Mapping[str, Tensor] | LogitStore

TAKEN = {"loss", "kd", "ce", "lr", "seconds", "train_accuracy", "teacher_accuracy", "val_accuracy", "val_nll"}


@dataclass(frozen=True)
class Step:
    """What a :class:`Term` with `step` sees of one training step, for losses that need more than two layers' features.

    Attributes:
        inputs: (N, ...), as the student saw them.
        labels: int64, (N,); of mixed images the larger part's.
        student: in training mode.
        teacher: the network, or None if `distill` was given stored outputs.
        outputs: what the teacher gave for these inputs, without gradient: "logits" (N, K), and whatever was stored.
    """

    inputs: Tensor
    labels: Tensor
    student: nn.Module
    teacher: nn.Module | None
    outputs: Outputs


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
        step: whether `loss` wants one :class:`Step` in place of the features, as those of :mod:`kdutils.guided` do;
            then layers, projector and labels stay as they are.

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
    step: bool = False
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
        if self.step and (self.student_layer or self.teacher_layer or self.projector is not None or self.labels):
            raise ValueError(
                f"step=True of term {self.name!r} gives its loss the whole step: leave student_layer, teacher_layer, "
                "projector and labels out."
            )

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
        trained = [] if self.trained is None else [self.trained.to(student.device).train()]
        _processes.same_start(trained)
        return trained


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
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    log_dir: str | Path | None = None,
    precision: Precision = "single",
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
        device: where to train; a GPU if there is one. The model stays there. Under `torchrun` every process takes its
            part of each batch of an ImageSet and the gradients are averaged: the same steps as one process takes,
            except for what relates the images of a batch (batch normalisation; SP, RKD, CRD and DIST), which sees its
            part only. For other iterables give each process its own part, by a `DistributedSampler`.
        checkpoint: a file (safetensors) that is written every `checkpoint_every` steps and at the end, always as a
            whole; from an iterable that is no ImageSet, between epochs only.
        checkpoint_every: that many steps.
        resume: go on from `checkpoint` if it is there. With an ImageSet, on the same machine with the same
            number of threads, the end is the same to the bit as without the interruption.
        log_dir: a folder for TensorBoard, which gets each epoch's row of the history and the images per second; a
            resumed run goes on in it, another one takes the place of what it showed.
        precision: "bfloat16" lets the networks compute in 16 bits where that is safe (`torch.autocast`), for
            hardware that is faster so; parameters, losses and evaluation stay in single precision.
        progress: show a bar with the time left.

    Returns:
        A history: per epoch "loss" and its terms (nats, mean over the images seen), "train_accuracy"
        (on the augmented images, while training), "lr", "seconds", and, with `validation`,
        "val_accuracy" and "val_nll". A run that is interrupted in a notebook gives back the complete epochs.

    Raises:
        ValueError: for any argument that does not fit, in one sentence that names it; for a checkpoint that is
            there though `resume` is False, is damaged, or belongs to another run.
        FloatingPointError: as soon as the loss is not finite, with the epoch and the step.
        ImportError: for `log_dir` without the package tensorboard.
        torch.cuda.OutOfMemoryError: with what to change.
    """
    _base.check_number("label_smoothing", label_smoothing, 0)
    if label_smoothing >= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing!r}.")

    def terms(seen: Outputs, batch: Batch) -> dict[str, Tensor]:
        logits = losses.at_least_float32(seen["logits"])
        return {"ce": F.cross_entropy(logits, batch.targets, label_smoothing=label_smoothing)}

    settings = Settings(
        epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress, mix,
        checkpoint, checkpoint_every, resume, log_dir, precision,
    )  # fmt: skip
    _check_model_and_data("model", model, train, settings)
    facts = {"label_smoothing": label_smoothing}
    return run("fit", model, train, terms, {"ce": 1.0}, settings, validation=validation, facts=facts)


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
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    log_dir: str | Path | None = None,
    precision: Precision = "single",
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
            `augment`; or several of these, whose answers are averaged; or one :class:`~kdutils.store.LogitStore`
            of this `train`, with `augment` True: epoch e then shows its view e mod `views`.
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
            After the last epoch, if the student is hardly better than chance and the teacher is not at chance.
    """
    losses.check_temperature(temperature)
    teachers: list[Teacher] = list(teacher) if isinstance(teacher, list | tuple) else [teacher]  # type: ignore[list-item]
    if not teachers:
        raise ValueError("teacher must be at least one network, got an empty list.")
    if len(teachers) > 1 and any(isinstance(each, LogitStore) for each in teachers):
        raise ValueError("teacher must be one store alone: two would show two different views.")
    terms = list(terms)
    _check_terms(terms, len(teachers), mix)
    losses.check_weights(kd_weight=kd_weight, ce_weight=ce_weight, **{term.name: term.weight for term in terms})
    if teacher_average not in ("probabilities", "logits"):
        raise ValueError(f'teacher_average must be "probabilities" or "logits", got {teacher_average!r:.60}.')
    settings = Settings(
        epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress, mix,
        checkpoint, checkpoint_every, resume, log_dir, precision,
    )  # fmt: skip
    _check_model_and_data("student", student, train, settings)
    sources = []
    for i, each in enumerate(teachers):
        wanted = [t.teacher_layer for t in terms if t.teacher == i and t.teacher_layer]
        sources.append(Source(_checked_teacher(each, student, train, settings, wanted), wanted))
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
            outputs = batch.teachers[term.teacher]
            if term.step:
                network = teachers[term.teacher]
                live = network if isinstance(network, nn.Module) else None
                parts[term.name] = term.loss(Step(batch.inputs, batch.labels, student, live, outputs))
            else:
                ours, theirs = seen[term.student_layer or "logits"], outputs[term.teacher_layer or "logits"]
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
    facts: dict[str, Any] = {"temperature": temperature, "teacher_average": teacher_average}
    for term in terms:
        facts[f"term {term.name}"] = [getattr(term.loss, "__qualname__", ""), term.student_layer, term.teacher_layer]
    return run(
        "distill", student, train, objective, weights, settings, validation=validation, sources=sources,
        student_layers=student_layers, projectors=projectors, facts=facts,
    )  # fmt: skip


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
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    log_dir: str | Path | None = None,
    precision: Precision = "single",
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
    settings = Settings(
        epochs, batch_size, augment, seed, optimizer, lr, weight_decay, device, progress, None,
        checkpoint, checkpoint_every, resume, log_dir, precision,
    )  # fmt: skip
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
    facts = {"temperature": temperature}
    return run("mutual", Cohort(students), train, objective, weights, settings, facts=facts)


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
    if not isinstance(train, ImageSet):
        raise ValueError(f"train must be an ImageSet, whose images have an order, got {type(train).__name__}.")
    found: dict[str, list[list[Tensor]]] = {name: [] for name in ("logits", *layers)}
    with read(teacher, layers) as seen:
        for view in [train.images] if not augment else [train.images, train.images.flip(-1)]:
            for chunks in found.values():
                chunks.append([])
            for images in view.split(rows(view)):
                logits = predict(teacher, train.normalise(images), batch_size=len(images))
                for name, value in {"logits": logits, **seen}.items():
                    found[name][-1].append(value.detach().float().cpu())
    return {name: torch.stack([torch.cat(chunks) for chunks in views]) for name, views in found.items()}


def _check_model_and_data(name: str, model: nn.Module, train: ImageSet | Batches, settings: Settings) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must be a torch.nn.Module, got {type(model).__name__}.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{name} has no parameter that requires a gradient: there is nothing to train.")
    if isinstance(train, ImageSet):
        if len(train.labels.unique()) < 2:
            raise ValueError(f"train holds one class only ({train.classes[int(train.labels[0])]}): two are wanted.")
    elif not isinstance(train, Iterable):
        raise ValueError(
            f"train must be an ImageSet or an iterable of batches, got {type(train).__name__}: of a data set make "
            "DataLoader(dataset, batch_size=128, shuffle=True)."
        )
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
    teacher: Teacher, student: nn.Module, train: ImageSet | Batches, settings: Settings, wanted: Sequence[str]
) -> nn.Module | Outputs | LogitStore:
    """A teacher that fits: a network, stored outputs by name, or a store on disk."""
    if isinstance(teacher, LogitStore):
        if not isinstance(train, ImageSet) or settings.augment is not True or settings.mix is not None or wanted:
            raise ValueError(
                "teacher is a store, which needs train to be an ImageSet, augment=True, no mix and no teacher_layer."
            )
        teacher.check_images(train)
        return teacher
    if isinstance(teacher, nn.Module):
        if student is teacher or {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}:
            raise ValueError("teacher is the student, or shares parameters with it: pass a separate, trained network.")
        for path in wanted:
            layers.check("teacher_layer", teacher, path)
        if not isinstance(train, ImageSet) or settings.augment is True or settings.mix is not None or wanted:
            return teacher
        teacher.to(settings.device if settings.device is not None else _base.device())
        return teacher_outputs(teacher, train, augment=settings.augment)  # so few views that each is computed once
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


def _comparable(logits: Tensor, outputs: Outputs) -> Tensor:
    """A teacher's logits, if they have the shape of the student's."""
    theirs = outputs["logits"]
    check_shape("the teacher", theirs, len(logits))
    if theirs.shape != logits.shape:
        raise ValueError(
            "student and teacher must give logits of the same shape (N, K), "
            f"got {tuple(logits.shape)} and {tuple(theirs.shape)}."
        )
    return theirs
