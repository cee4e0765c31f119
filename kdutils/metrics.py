"""What a model gets right, how sure it is, how close two models are, and how sure we may be of that."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdutils import _base

VALUES = 2**24  # of float32 inputs in one forward pass: 64 MB; the network's own maps are many times that


@runtime_checkable
class Images(Protocol):
    """What `evaluate` and `compare` need of an ImageSet."""

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    def normalise(self, images: Tensor) -> Tensor: ...


class Interval(NamedTuple):
    """A mean with its confidence interval; prints as "0.912 [0.909, 0.915], n = 8"."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return self.format()

    def format(self, scale: float = 1.0, digits: int = 3, sign: bool = False) -> str:
        """The same with another unit: `scale=100, digits=1` prints percent; `sign` prints a leading +."""
        mark = "+" if sign else ""
        mean, low, high = (f"{value * scale:{mark}.{digits}f}" for value in self[:3])
        return f"{mean} [{low}, {high}], n = {self.n}"


def rows(images: Tensor) -> int:
    """How many images like these one forward pass may hold: 500 small ones, 111 of 3 × 224 × 224."""
    return min(500, max(1, VALUES // max(1, images[:1].numel())))


def predict(model: nn.Module, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits (N, K) on the CPU for normalised images (N, C, H, W).

    Batch by batch (if `batch_size` is None, of :func:`rows` images and at most 250: as fast as 500, and a ResNet's maps
    take half the memory), in eval mode, without gradients; the model gets its mode back.

    Raises:
        ValueError: if `batch_size` is below 1 or the model does not give (N, K).
    """
    batch_size = min(250, rows(images)) if batch_size is None else batch_size
    _base.check_positive_int("batch_size", batch_size)
    device = _base.model_device(model)
    with _base.eval_mode(model), torch.no_grad():
        logits = torch.cat([model(batch.to(device)) for batch in images.split(batch_size)])
    if logits.dim() != 2 or len(logits) != len(images):
        raise ValueError(f"the model must give logits of shape ({len(images)}, K), got {tuple(logits.shape)}.")
    return logits.float().cpu()


def logits_and_labels(model: nn.Module, data: Images | Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) of a whole data set, on the CPU; as :func:`predict` otherwise.

    Args:
        data: an ImageSet, or an iterable of batches (inputs, labels) in a fixed order.
    """
    found, labels = _all_logits([model], data)
    return found[0], labels


def _all_logits(
    models: Sequence[nn.Module], data: Images | Iterable[tuple[Tensor, Tensor]]
) -> tuple[list[Tensor], Tensor]:
    """The logits of several models on the same batches, in one pass over the data."""
    if isinstance(data, Images):
        chunk = 2 * rows(data.images)
        chunks = zip(data.images.split(chunk), data.labels.split(chunk), strict=True)
        batches: Iterable[tuple[Tensor, Tensor]] = ((data.normalise(images), labels) for images, labels in chunks)
    else:
        batches = data
    found: list[tuple[Tensor, ...]] = []
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws from the global generator
        for inputs, labels in batches:
            found.append((labels.cpu(), *(predict(model, inputs) for model in models)))
    if not found:
        raise ValueError("the data set is empty: at least one batch is wanted.")
    labels, *logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits, labels


def evaluate(model: nn.Module, test: Images | Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Accuracy and calibration of `model` on `test`.

    Returns:
        "accuracy" (share of right answers, 0 to 1), "nll" (negative log-likelihood of the labels, nats,
        mean), "ece" (:func:`ece`, 15 bins) and "n" (number of images).

    Raises:
        ValueError: for an empty set, logits that are not (N, K), or labels out of range.
        FloatingPointError: if a logit is NaN.
    """
    return evaluate_logits(*logits_and_labels(model, test))


def evaluate_logits(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """What :func:`evaluate` says, and raises, from logits (N, K) and labels (N,)."""
    _check_labels(logits, labels)
    if logits.isnan().any():
        raise FloatingPointError(f"the logits of {int(logits.isnan().any(1).sum())} of {len(logits)} images are NaN.")
    return {
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
        "nll": float(F.cross_entropy(logits, labels)),
        "ece": ece(logits.softmax(1), labels),
        "n": len(labels),
    }


def compare(student: nn.Module, teacher: nn.Module, test: Images | Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """How close two models are on `test`, which is another question than how right they are.

    Returns:
        "student_accuracy" and "teacher_accuracy"; "agreement" (share of images with the same top-1
        class; Stanton et al. 2021, arXiv:2106.05945); "agreement_on_teacher_errors" and
        "agreement_on_teacher_hits" (the same among the images that the teacher gets wrong and right;
        NaN if there is none); "kl" (KL(teacher ‖ student) at T = 1, nats, mean); "n".

    Raises:
        ValueError: for an empty set, or models with different numbers of classes.
    """
    (student_logits, teacher_logits), labels = _all_logits([student, teacher], test)
    return compare_logits(student_logits, teacher_logits, labels)


def compare_logits(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, float]:
    """What :func:`compare` says, and raises, from two tensors of logits (N, K) and labels (N,)."""
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "student and teacher must give logits of the same shape (N, K), "
            f"got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    _check_labels(student_logits, labels)
    same = (student_logits.argmax(1) == teacher_logits.argmax(1)).double()
    right = teacher_logits.argmax(1) == labels
    kl = F.kl_div(student_logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="batchmean", log_target=True)
    return {
        "student_accuracy": float((student_logits.argmax(1) == labels).double().mean()),
        "teacher_accuracy": float(right.double().mean()),
        "agreement": float(same.mean()),
        "agreement_on_teacher_errors": float(same[~right].mean()),
        "agreement_on_teacher_hits": float(same[right].mean()),
        "kl": float(kl),
        "n": len(labels),
    }


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> dict[str, np.ndarray]:
    """The reliability diagram: images sorted by confidence into bins of equal width.

    Args:
        probabilities: (N, K), rows sum to 1.
        labels: int64, (N,).
        bins: how many bins from 0 to 1.

    Returns:
        "confidence" (mean of the largest probability), "accuracy" and "count", each (bins,); the first
        two are NaN in empty bins.

    Raises:
        ValueError: for shapes that do not fit, rows that are no probabilities, or fewer than one bin.
    """
    _base.check_positive_int("bins", bins)
    _check_labels(probabilities, labels)
    sums = probabilities.double().sum(1)
    if not (bool((probabilities >= 0).all()) and bool(((sums - 1).abs() < 0.01).all())):
        raise ValueError("probabilities must be rows of numbers ≥ 0 that sum to 1: logits need .softmax(1) first.")
    probabilities, labels = probabilities.detach().cpu(), labels.cpu()
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).double().numpy()
    place = (confidence.double().numpy() * bins).astype(int).clip(0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return {
            "confidence": np.bincount(place, confidence.double().numpy(), bins) / count,
            "accuracy": np.bincount(place, right, bins) / count,
            "count": count,
        }


def ece(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: Σ over bins of (share of images) · |accuracy − confidence|, 0 to 1.

    Guo et al. 2017 (arXiv:1706.04599), eq. 3. Arguments and errors as :func:`reliability`.
    """
    table = reliability(probabilities, labels, bins)
    gap = np.abs(table["accuracy"] - table["confidence"])
    return float(np.nansum(gap * table["count"]) / table["count"].sum())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which softmax(logits/T) has the lowest negative log-likelihood.

    Temperature scaling, Guo et al. 2017 (arXiv:1706.04599), section 4.2. Fit it on held-out images.

    Args:
        logits: (N, K).
        labels: int64, (N,).

    Returns:
        T between 0.05 and 20; above 1 the model was too sure of itself.
    """
    _check_labels(logits, labels)
    z = logits.double()

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(z / np.exp(log_temperature), labels))

    from scipy import optimize  # large, and rarely wanted

    found = optimize.minimize_scalar(nll, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def interval(
    values: Sequence[float] | np.ndarray, minus: Sequence[float] | np.ndarray | None = None, confidence: float = 0.95
) -> Interval:
    """Student's t interval for the mean of `values`, one value per seed.

    With `minus`, the interval of the mean *paired difference* values − minus: the two must come in the
    same order of seeds. Runs that share a seed share data order and start, so their difference is
    steadier than either.

    Raises:
        ValueError: for fewer than two values, values that are not finite, or lengths that differ.
    """
    a = np.asarray(values, dtype=float)
    if minus is not None:
        b = np.asarray(minus, dtype=float)
        if a.shape != b.shape:
            raise ValueError(f"values and minus must have the same length, got {a.shape} and {b.shape}.")
        a = a - b
    if a.ndim != 1 or len(a) < 2 or not np.isfinite(a).all():
        raise ValueError(f"values must be at least two finite numbers, got {a.tolist()!r:.80}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    from scipy import stats  # large, and rarely wanted

    half = stats.t.ppf((1 + confidence) / 2, len(a) - 1) * a.std(ddof=1) / np.sqrt(len(a))
    return Interval(float(a.mean()), float(a.mean() - half), float(a.mean() + half), len(a))


def cost(model: nn.Module, inputs: Tensor, repeats: int = 30) -> dict[str, float]:
    """What a model costs to keep and to run on `inputs` (N, C, H, W).

    Returns:
        "parameters"; "megabytes" (of float32 parameters and buffers, 10⁶ bytes); "mflops" (10⁶ floating
        point operations per image, a multiply-add counted as two; convolutions and matrix products);
        "milliseconds" (median of `repeats` forward passes of the whole batch, after two to warm up).
    """
    _base.check_positive_int("repeats", repeats)
    device = _base.model_device(model)
    inputs = inputs.to(device)
    times = []
    with _base.eval_mode(model), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(inputs)
        for _ in range(repeats + 2):
            start = time.perf_counter()
            model(inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": sum(t.numel() * t.element_size() for t in tensors) / 1e6,
        "mflops": counter.get_total_flops() / len(inputs) / 1e6,
        "milliseconds": statistics.median(times[2:]) * 1e3,
    }


def _check_labels(scores: Tensor, labels: Tensor) -> None:
    if scores.dim() != 2 or labels.shape != scores.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"scores (N, K) and labels (N,) must fit and hold at least one image, "
            f"got {tuple(scores.shape)} and {tuple(labels.shape)}."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise ValueError(f"labels must lie in 0 to {scores.shape[1] - 1}, got values from {low} to {high}.")
