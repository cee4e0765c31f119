"""Checks of chapter 05."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from kdutils.check.ch02 import close, what_else


def exercise_1(answer: Callable[..., Any]) -> str | None:
    """The 95 % interval of a paired difference."""
    rng = np.random.default_rng(0)
    alone = rng.normal(0.84, 0.02, 8)
    distilled = alone + rng.normal(0.01, 0.003, 8)
    got = answer(distilled.copy(), alone.copy())
    try:
        mean, low, high = (float(value) for value in got)
    except (TypeError, ValueError):
        return "Return three numbers: the mean difference, the lower and the upper end."
    d = distilled - alone

    def ends(half: float) -> tuple[float, float]:
        return d.mean() - half, d.mean() + half

    if np.isclose(mean, -d.mean()):
        return "The sign is turned round: the difference is distilled − alone, so that a gain is positive."
    if not np.isclose(mean, d.mean()):
        return "The mean is not the mean of distilled − alone."
    quantile = stats.t.ppf(0.975, len(d) - 1)
    error = d.std(ddof=1) / np.sqrt(len(d))
    if np.allclose((low, high), ends(quantile * error)):
        return None
    if np.allclose((low, high), ends(1.96 * error), atol=1e-5):
        return "1.96 is the normal quantile; with n seeds use Student's t with n − 1 degrees of freedom."
    if np.allclose((low, high), ends(quantile * d.std() / np.sqrt(len(d)))):
        return "NumPy's std divides by n by default: a sample's standard deviation needs ddof=1."
    if np.allclose((low, high), ends(quantile * d.std(ddof=1))):
        return "That is the spread of single seeds; the mean of n seeds is steadier by √n."
    if high - low > 4 * quantile * error:
        return "Much too wide: the runs are paired, so take the standard deviation of the differences."
    return "The mean is right, the ends are not: mean ± t(0.975, n − 1) · s/√n with s of the differences."


def exercise_2(answer: Callable[..., Any]) -> str | None:
    """The combined loss from its three inputs."""
    generator = torch.Generator().manual_seed(0)
    s, t = (3 * torch.randn(6, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(10, (6,), generator=generator)
    found = answer(s.clone(), t.clone(), labels, 4.0, 0.7, 0.2)
    if not isinstance(found, Tensor) or found.dim() != 0:
        return "Return one number as a tensor: the mean over the batch."
    if not close(found, _combined(s, t, labels, 4.0, 0.7, 0.2)):
        return _what_is_wrong(found, s, t, labels, 4.0, 0.7, 0.2)
    for temperature in (1.0, 2.5, 20.0):
        if not close(answer(s.clone(), t.clone(), labels, temperature, 0.7, 0.2), _combined(s, t, labels, temperature)):
            return f"It is right at T = 4 but not at T = {temperature:g}: is a temperature written into it as a number?"
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.3, 2.0)):
        if not close(answer(s.clone(), t.clone(), labels, 4.0, *weights), _combined(s, t, labels, 4.0, *weights)):
            return "It is right for weights of 0.7 and 0.2 but not for others: they need not add up to any number."
    wild = 1000 * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.5]])
    two = (wild, wild.flip(1), torch.tensor([0, 1]), 1.0, 0.5, 0.5)
    if not close(answer(*two), _combined(*two)):
        return (
            "For logits of ±1000 it is NaN, infinite or far off. Use log_softmax on both sides, never log of softmax."
        )
    student, teacher = s.clone().requires_grad_(), t.clone().requires_grad_()
    for part, weights in (("soft", (1.0, 0.0)), ("hard", (0.0, 1.0))):
        student.grad = None
        loss = answer(student, teacher, labels, 4.0, *weights)
        if loss.requires_grad:
            loss.backward()
        if student.grad is None or student.grad.norm() == 0:
            return f"No gradient of the {part} part reaches the student: something detaches its logits."
        exact = s.clone().requires_grad_()
        _combined(exact, t, labels, 4.0, *weights).backward()
        if exact.grad is None or not close(student.grad, exact.grad):
            return f"The {part} part has the right value and a wrong gradient: is a piece of it detached?"
    if teacher.grad is not None and teacher.grad.norm() > 0:
        return "A gradient flows to the teacher. Its logits are constants: detach() them."
    return None


def _combined(
    s: Tensor, t: Tensor, labels: Tensor, temperature: float, kd_weight: float = 0.7, ce_weight: float = 0.2
) -> Tensor:
    log_q, log_p = (s / temperature).log_softmax(1), (t / temperature).log_softmax(1)
    soft = temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return kd_weight * soft + ce_weight * F.cross_entropy(s, labels)


def _what_is_wrong(
    found: Tensor, s: Tensor, t: Tensor, labels: Tensor, temperature: float, kd_weight: float, ce_weight: float
) -> str:
    if close(found, _combined(s, t, labels, temperature, ce_weight, kd_weight)):
        return "The two weights are swapped."
    soft = _combined(s, t, labels, temperature, kd_weight, 0.0)
    if close(found - soft, ce_weight * F.cross_entropy(s / temperature, labels)):
        return "The cross-entropy with the labels has no temperature: use the student's plain logits."
    if close(found - soft, ce_weight * F.cross_entropy(s, labels, reduction="sum")):
        return "The cross-entropy with the labels is a sum here: take its mean over the batch."
    # What is left for the soft part can be wrong in the ways of exercise 02.2.
    rest = (found - ce_weight * F.cross_entropy(s, labels)) / kd_weight
    hint = what_else(rest, s, t, temperature)
    return hint or "Not the combined loss: kd_weight · T² · KL(teacher ‖ student) + ce_weight · cross-entropy."


def exercise_3(answer: Callable[..., Any]) -> str | None:
    """A permutation within classes that leaves nobody in place."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=generator)
    orders = []
    for seed in range(3):
        order = torch.as_tensor(answer(labels.clone(), seed))
        if order.shape != labels.shape:
            return "Return one position for each image, shape (N,)."
        if not torch.equal(order.long().sort().values, torch.arange(len(labels))):
            return "That is not a permutation: every image's soft label must be used exactly once."
        if not torch.equal(labels[order.long()], labels):
            return "Some image gets a soft label of another class: shuffle within each class only."
        if bool((order == torch.arange(len(labels))).any()):
            return "Some image keeps its own soft label: move everybody, for instance along one cycle per class."
        orders.append(order)
    if torch.equal(orders[0], orders[1]):
        return "Two seeds give the same order: draw it with a generator that has the seed."
    return None
