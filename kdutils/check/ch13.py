"""Checks of chapter 13."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def exercise_1(answer: Callable[[Tensor], Tensor]) -> str | None:
    """`area(curves)`: the area under each curve (N, steps + 1) over a width of 1, (N,)."""
    curves = torch.rand(6, 6, generator=_generator()).double()  # as many curves as points: a wrong axis is told
    found, right = answer(curves.clone()), torch.trapezoid(curves, dx=1 / 5, dim=1)
    if found.shape != right.shape:
        return f"One area per curve: the result must have the shape {tuple(right.shape)}, not {tuple(found.shape)}."
    if _close(found, right):
        one = answer(torch.tensor([[0.8, 0.2]], dtype=torch.float64))
        return None if _close(one, torch.tensor([0.5]).double()) else "With a single step the area is the mean of both."
    for wrong, hint in (
        (curves.mean(1), "Nearly: the two ends stand for half a step each, so they count half."),
        (curves.sum(1), "The sum grows with the number of steps: the width of all steps together must be 1."),
        (torch.trapezoid(curves, dim=1), "Your steps are 1 wide, so the whole is 5 wide: the width of all must be 1."),
        (torch.trapezoid(curves, dx=1 / 6, dim=1), "Six points have five steps between them, so a step is 1/5 wide."),
        (curves[:, :-1].mean(1), "You took each step at its left end. A trapezium has the mean of its two ends."),
        (curves[:, 1:].mean(1), "You took each step at its right end. A trapezium has the mean of its two ends."),
        (torch.trapezoid(curves, dx=1 / 5, dim=0), "You went down the images: the steps are along the second axis."),
    ):
        if _close(found, wrong):
            return hint
    return "Not the area of the trapeziums: each step is 1 / steps wide and as high as the mean of its two ends."


def exercise_2(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """`unexplained(told, fell)`: the share of Σ fell² that β · told leaves, at the best β for each map, (N,)."""
    generator = _generator(2)
    told = torch.randn(4, 32, generator=generator, dtype=torch.float64) + 1
    fell = told * torch.tensor([[2.0], [0.1], [-1.0], [5.0]]).double() + torch.randn(told.shape, generator=generator)
    right = _unexplained(told, fell)
    found = answer(told.clone(), fell.clone())
    if found.shape != right.shape:
        return f"One share per image: the result must have the shape {tuple(right.shape)}, not {tuple(found.shape)}."
    if not _close(found, right):
        power = fell.square().sum(1)
        everyone = (told * fell).sum() / told.square().sum()
        for wrong, hint in (
            (
                (told - fell).square().sum(1) / power,
                "The unit of the map must not matter: scale it first, by the best β.",
            ),
            ((everyone * told - fell).square().sum(1) / power, "You used one β for all images: each map has its own."),
            (_one_minus_r2(told, fell), "You took the means out: that is 1 − r², which forgives a constant error."),
            (1 - right, "That is the share that is explained: 1 minus it is asked for."),
            (right * power, "That is what is left in logit². Divide by what a zero map leaves."),
            (right * power / fell.shape[1], "That is what is left in logit². Divide by what a zero map leaves."),
            (right.sqrt(), "Squares, not roots: the share of the squared change."),
        ):
            if _close(found, wrong):
                return hint
        return "Not yet: minimise Σ (β · told − fell)² over β for each image, and divide what is left by Σ fell²."
    told[1] = 0
    found = answer(told.clone(), fell.clone())
    if not torch.isfinite(found).all():
        return "A zero map foretells nothing, and 0/0 comes out: its share must be 1."
    if not _close(found, _unexplained(told, fell)):
        return "With a zero map in the batch, its share must be 1 and the others must stay as they were."
    if not _close(answer(1e-9 * told, fell.clone()), _unexplained(told, fell)):
        return "A map that is a billion times smaller gets another share: what keeps 0/0 away is too large."
    return None


def exercise_3(answer: Callable[[np.ndarray, np.ndarray, str], bool]) -> str | None:
    """`beats(scores, competitors, better)`: whether a method beats every competitor, image by image."""
    draw = np.random.default_rng(3)
    hard = draw.normal(0, 1.0, 60)  # how hard an image is: shared by all maps, and far larger than any difference
    good, weak, same, strong, close = (hard + lead + draw.normal(0, 0.1, 60) for lead in (0.1, 0.0, 0.0, 0.3, 0.0))
    close += 0.005 - (close - weak).mean()  # better than weak on average, by far less than it scatters
    paired = "The images differ far more than the maps do: take the difference image by image, then its interval."
    direction = "Mind the direction: with better='low' the lower score wins."
    every = "It loses to one of the competitors: every single one must be beaten, not one of them, not their average."
    lucky = "The mean is a little better, but the interval of the difference holds 0: that is not yet a victory."
    cases = (
        (good, [weak, same], "high", True, paired),
        (-good, [-weak, -same], "low", True, direction),
        (-good, [-weak, -same], "high", False, direction),
        (good, [weak, strong], "high", False, every),
        (good, [weak, same] * 5 + [strong], "high", False, every),
        (close, [weak], "high", False, lucky),
        (strong, [weak, same, good], "high", True, paired),
    )
    for scores, competitors, better, wanted, hint in cases:
        found = answer(np.array(scores), np.array(competitors), better)
        if not isinstance(found, (bool, np.bool_)):
            return f"The answer is True or False, not a {type(found).__name__}."
        if bool(found) != wanted:
            return hint
    return None


def _unexplained(told: Tensor, fell: Tensor) -> Tensor:
    beta = (told * fell).sum(1) / told.square().sum(1).clamp(min=1e-300)
    return (beta[:, None] * told - fell).square().sum(1) / fell.square().sum(1)


def _one_minus_r2(told: Tensor, fell: Tensor) -> Tensor:
    a, b = told - told.mean(1, keepdim=True), fell - fell.mean(1, keepdim=True)
    return 1 - (a * b).sum(1) ** 2 / (a.square().sum(1) * b.square().sum(1))


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-6)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
