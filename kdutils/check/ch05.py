"""Checks of chapter 05."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F


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
    s, t = torch.randn(6, 10, generator=generator).double() * 3, torch.randn(6, 10, generator=generator).double() * 3
    labels = torch.randint(10, (6,), generator=generator)
    temperature, kd_weight, ce_weight = 4.0, 0.7, 0.2
    got = answer(s, t, labels, temperature, kd_weight, ce_weight)
    if not isinstance(got, Tensor) or got.dim() != 0:
        return "Return one number as a tensor: the mean over the batch."

    def kl(p: Tensor, q: Tensor, scale: float) -> Tensor:
        p, q = (p / temperature).log_softmax(1), (q / temperature).log_softmax(1)
        return F.kl_div(q, p, reduction="batchmean", log_target=True) * scale

    ce, t2 = F.cross_entropy(s, labels), temperature**2
    right, hot = kl(t, s, t2), F.cross_entropy(s / temperature, labels)
    hints = {
        "The factor T² is missing: without it the soft part fades as T grows.": (kl(t, s, 1), ce),
        "The factor is T²; T alone is not enough.": (kl(t, s, temperature), ce),
        "The soft part is K times too small: sum over classes, average over images (batchmean).": (right / 10, ce),
        "The two networks are swapped: the teacher comes first, KL(teacher ‖ student).": (kl(s, t, t2), ce),
        "The cross-entropy with the labels has no temperature: use the student's plain logits.": (right, hot),
    }
    for hint, (soft, hard) in hints.items():
        if torch.isclose(got.double(), kd_weight * soft + ce_weight * hard, rtol=1e-4):
            return hint
    if torch.isclose(got.double(), ce_weight * right + kd_weight * ce, rtol=1e-4):
        return "The two weights are swapped."
    if torch.isclose(got.double(), kd_weight * right + ce_weight * ce, rtol=1e-4):
        return None
    return "Not the combined loss: kd_weight · T² · KL(teacher ‖ student) + ce_weight · cross-entropy."


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
