"""Checks of chapter 07."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

_NO_GRADIENT = "The value is right, but no gradient reaches the student: don't detach, and stay with tensors."


def _maps(features: Tensor, size: tuple[int, int]) -> Tensor:
    return F.normalize(F.adaptive_avg_pool2d(features.square().sum(1), size).flatten(1), dim=1)


def exercise_1(answer: Callable[..., Any]) -> str | None:
    """Attention transfer between layers of different sizes."""
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(5, 6, 8, 12, generator=generator, dtype=torch.float64)
    t = torch.randn(5, 9, 4, 6, generator=generator, dtype=torch.float64)
    got = answer(s.clone().requires_grad_(), t.clone())
    if not isinstance(got, Tensor) or got.dim() != 0:
        return "Return one number as a tensor: the mean over images and places."

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean()

    size, theirs = (4, 6), _maps(t, (4, 6))
    right = loss(_maps(s, size), theirs)
    pooled = F.adaptive_avg_pool2d(s, size)
    large = F.normalize(s.square().sum(1).flatten(1), dim=1).unflatten(1, (8, 12))
    unequal = F.adaptive_avg_pool2d(s.square().sum(1), size), t.square().sum(1)
    up = F.interpolate(t.square().sum(1)[:, None], size=(8, 12))[:, 0]
    plain = [F.normalize(F.adaptive_avg_pool2d(x.sum(1), size).flatten(1), dim=1) for x in (s, t)]
    absolute = [F.normalize(F.adaptive_avg_pool2d(x.abs().sum(1), size).flatten(1), dim=1) for x in (s, t)]
    ours = _maps(s, size)
    hints = {
        "Pool the map, not the features: where channels have different signs, averaging first cancels what is "
        "there.": loss(_maps(pooled, size), theirs),
        "Bring the map to length 1 after pooling: a pooled map of length 1 is shorter.": loss(
            F.adaptive_avg_pool2d(large, size).flatten(1), theirs
        ),
        "The maps are not brought to length 1 (per image): the loss then compares how strong the features are.": loss(
            *unequal
        ),
        "Make the student's map smaller, not the teacher's larger: what the teacher lacks cannot be invented.": loss(
            F.normalize(s.square().sum(1).flatten(1), dim=1), F.normalize(up.flatten(1), dim=1)
        ),
        "The square is missing: positive and negative channels cancel in a plain sum.": loss(*plain),
        "Square the features; the sum of absolute values is the map with p = 1.": loss(*absolute),
        "Take the mean over images and places, not the sum.": (ours - theirs).square().sum(),
        "Divide by the number of places too: the mean is over images and places.": (ours - theirs)
        .square()
        .sum(1)
        .mean(),
    }
    if torch.isclose(got.double(), right, rtol=1e-5):
        return None if got.requires_grad else _NO_GRADIENT
    for hint, value in hints.items():
        if torch.isclose(got.double(), value, rtol=1e-5):
            return hint
    return "Not the loss: sum of squares over the channels, pool to the teacher's size, length 1 per image, MSE."


def exercise_2(answer: Callable[..., Any]) -> str | None:
    """Linear centred kernel alignment."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 7, generator=generator, dtype=torch.float64) + torch.arange(7)
    y = x @ torch.randn(7, 11, generator=generator, dtype=torch.float64) + 2
    y = y + 6 * torch.randn(30, 11, generator=generator, dtype=torch.float64)
    got = answer(x.clone().requires_grad_(), y.clone())
    if not isinstance(got, Tensor) or got.dim() != 0:
        return "Return one number as a tensor."

    def norm(m: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(m)

    def alike(x: Tensor, y: Tensor) -> Tensor:
        return norm(x.T @ y).square() / (norm(x.T @ x) * norm(y.T @ y))

    a, b = x - x.mean(0), y - y.mean(0)
    right = alike(a, b)
    if torch.isclose(got.double(), right, rtol=1e-5):
        return None if got.requires_grad else _NO_GRADIENT
    hints = {
        "Nothing is centred: subtract from each feature its mean over the images.": alike(x, y),
        "Centre over the images (dim 0), not over the features of each image.": alike(
            x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        ),
        "Subtract each feature's own mean, not one mean of the whole matrix.": alike(x - x.mean(), y - y.mean()),
        "The numerator is the squared norm.": norm(a.T @ b) / (norm(a.T @ a) * norm(b.T @ b)),
        "That is the square root: the numerator is squared.": right.sqrt(),
        "That is 1 − CKA; return the likeness.": 1 - right,
        "The denominator is missing: without it the scale of the features decides.": norm(a.T @ b).square(),
        "In the denominator take ‖XᵀX‖, not ‖X‖².": norm(a.T @ b).square() / (norm(a) * norm(b)).square(),
        "The products are of the wrong axes: XᵀY is (D, D'), summed over the images.": norm(a @ a.T @ b @ b.T)
        / (norm(a @ a.T) * norm(b @ b.T)),
    }
    for hint, value in hints.items():
        if torch.isclose(got.double(), value, rtol=1e-5):
            return hint
    return "Not CKA: centre both over the images, then ‖XᵀY‖² / (‖XᵀX‖ · ‖YᵀY‖) with Frobenius norms."


def exercise_3(answer: Callable[..., Any]) -> str | None:
    """Holm's adjusted p-values of paired differences."""
    rng = np.random.default_rng(2)
    shifts = np.array([0.3, 1.2, 0.02, 0.78, 0.8, -0.1])
    differences = shifts[:, None] + rng.normal(0, 0.7, (6, 8))
    try:
        got = np.asarray(answer(differences.copy()), dtype=float)
    except (TypeError, ValueError):
        return "Return one number for each row of differences."
    if got.shape != (6,):
        return f"Return one number for each row of differences, shape (6,); yours has {got.shape}."
    p = np.asarray(stats.ttest_1samp(differences, 0, axis=1).pvalue)
    order = np.argsort(p)

    def back(values: np.ndarray) -> np.ndarray:
        found = np.empty(6)
        found[order] = values
        return found

    stepped = p[order] * np.arange(6, 0, -1)
    climbing = np.maximum.accumulate(stepped)
    one_sided = np.asarray(stats.ttest_1samp(differences, 0, axis=1, alternative="greater").pvalue)
    if np.allclose(got, back(climbing.clip(max=1))):
        return None
    hints = {
        "Those are the p-values as they are: with many methods, the smallest is partly luck.": p,
        "That is Bonferroni: only the smallest is multiplied by m, the next by m − 1, and so on.": (6 * p).clip(max=1),
        "A probability cannot exceed 1: cut the adjusted values off.": back(climbing),
        "An adjusted value is smaller than the one before it: take the running maximum in sorted order.": back(
            stepped.clip(max=1)
        ),
        "The numbers are right, the order is not: give them back in the order of the rows.": climbing.clip(max=1),
        "Those tests are one-sided; a method can also do harm.": one_sided,
        "That is the false discovery rate (Benjamini and Hochberg); Holm multiplies by m, m − 1, … , 1.": np.asarray(
            stats.false_discovery_control(p)
        ),
    }
    for hint, values in hints.items():
        if np.allclose(got, values):
            return hint
    if np.allclose(got, back(stepped)):
        return "Two things are missing: the running maximum in sorted order, and the cut at 1."
    return "Not Holm's values: sort the p-values, multiply by m, m − 1, …, 1, running maximum, cut at 1, sort back."
