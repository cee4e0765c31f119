"""Checks of chapter 04."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy import optimize, stats
from torch import Tensor
from torch.nn import functional as F

from kdutils import metrics

_Z = float(stats.norm.ppf(0.975))


def exercise_1(images_needed: Callable[[float, float], float]) -> str | None:
    """How many test images give an accuracy a 95 % interval of ± `half_width`."""
    for accuracy, half_width in [(0.93, 0.001), (0.5, 0.01), (0.8, 0.02)]:
        found = float(images_needed(accuracy, half_width))
        spread = accuracy * (1 - accuracy)
        truth = spread * (_Z / half_width) ** 2

        def is_near(value: float, found: float = found) -> bool:
            return math.isclose(found, value, rel_tol=0.02)

        if is_near(truth):
            continue
        if is_near(truth / _Z**2):
            return "That is one standard error. An interval that covers 95 % reaches 1.96 of them to each side."
        if is_near(truth * 4) or is_near(truth / 4):
            return "`half_width` is the distance from the middle to one end, not from end to end: do not use 2."
        if is_near(spread * _Z / half_width) or is_near(math.sqrt(truth)):
            return "The standard error is √(p(1 − p)/n): solve for n, and something has to be squared."
        if is_near(truth / 100**2):
            return "Both arguments are shares between 0 and 1, not percent: there is nothing to divide by 100."
        if is_near(truth / (1 - accuracy)) or is_near(truth / accuracy):
            return "The variance of one hit or miss is p(1 − p): both factors are needed."
        size = "few" if found < truth else "many"
        return f"For accuracy {accuracy} and half-width {half_width} you give {found:.6g}, which is too {size} images."
    return None


def exercise_2(useless_but_calibrated: Callable[[Tensor], Tensor]) -> str | None:
    """One row of probabilities for every image, whose confidence is right on average."""
    weights = torch.tensor([0.05, 0.05, 0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])
    labels = torch.multinomial(weights, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    found = useless_but_calibrated(labels)
    if not isinstance(found, Tensor) or found.shape != (len(labels), 10):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"A tensor of shape ({len(labels)}, 10) is wanted, one row per image; you gave {shape}."
    found = found.double()
    if (found < 0).any() or not torch.allclose(found.sum(1), torch.ones(len(found), dtype=torch.double), atol=1e-4):
        return "Each row must be probabilities: none below zero, and the row adds up to 1. Counts are not there yet."
    if not torch.allclose(found, found[:1].expand_as(found)):
        return "Your rows differ, so they look at each image's own label. A useless model has one row for all."
    if float(found[0].max()) > 0.999:
        return "This model is always certain, and wrong for most images: its confidence 1 is far above its accuracy."
    if metrics.ece(found, labels) < 0.005:
        return None
    if float(found[0].max() - found[0].min()) < 1e-6:
        return "All classes alike is calibrated only where they are equally frequent, and the check's labels are not."
    top = int(found[0].argmax())
    hits = float((labels == top).float().mean())
    sure = float(found[0].max())
    return f"The confidence is {sure:.3f}, but class {top} makes up {hits:.3f} of the labels: they must agree."


def exercise_3(best_gap: Callable[[float, int], float]) -> str | None:
    """The logit gap at which the cross-entropy with smoothed labels is lowest."""
    for share, classes in [(0.1, 10), (0.2, 5), (0.05, 100)]:
        found = float(best_gap(share, classes))
        truth = _best_gap(share, classes)
        right, others = 1 - share + share / classes, share / classes

        def is_near(value: float, found: float = found) -> bool:
            return math.isclose(found, value, rel_tol=1e-3)

        if is_near(truth):
            continue
        if is_near(math.log((1 - share) * (classes - 1) / share)):
            return "You spread the share over the K − 1 other classes; PyTorch spreads it over all K."
        if is_near(right / others):
            return "That is the ratio of the two probabilities; logits differ by its logarithm."
        if is_near(right):
            return "That is the probability of the right class; the gap between the logits is asked for."
        if is_near(math.log((1 - share) / (share / classes))):
            return "The right class keeps 1 − share and gets its own share/K back: its target is 1 − share + share/K."
        if is_near(-truth):
            return "The size is right, the sign is not: right class minus another."
        if is_near(truth / math.log(10)) or is_near(truth / math.log(2)):
            return "The softmax is built on e: take the natural logarithm."
        side = "above" if found < truth else "below"
        return f"For share {share} and {classes} classes you give {found:.4g}; the loss is lowest {side} that."
    return None


def _best_gap(share: float, classes: int) -> float:
    """Found by search, so that it does not rest on the formula that the exercise asks for."""

    def loss(gap: float) -> float:
        logits = torch.zeros(1, classes, dtype=torch.double)
        logits[0, 0] = gap
        return float(F.cross_entropy(logits, torch.tensor([0]), label_smoothing=share))

    return float(optimize.minimize_scalar(loss, bounds=(-5, 30), method="bounded", options={"xatol": 1e-9}).x)
