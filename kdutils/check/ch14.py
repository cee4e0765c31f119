"""Checks of chapter 14."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from kdutils.significance import sign_flip


def exercise_1(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """`specific(a, b)`: cosine with the same image's map minus cosine with the next image's, (N,)."""
    generator = torch.Generator().manual_seed(14)
    shared = torch.randn(1, 6, 5, generator=generator)
    own = torch.randn(7, 6, 5, generator=generator)
    a, b = (shared + own + torch.randn(7, 6, 5, generator=generator) for _ in range(2))
    found, right = answer(a.clone(), b.clone()), _specific(a, b)
    if not isinstance(found, Tensor) or found.shape != right.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"One number per image: a tensor of shape {tuple(right.shape)} is wanted, not {got}."
    same = cosine_similarity(a.flatten(1), b.flatten(1))
    for wrong, hint in (
        (same, "That is the agreement itself. Subtract the agreement with another image's map."),
        (same - _specific(a, b), "That is the part to be subtracted: it is what all maps have in common."),
        (-right, "The sign is turned: the same image comes first, then minus the other one."),
        (same - cosine_similarity(b.flatten(1), b.roll(-1, 0).flatten(1)), "Compare the first network's map with the "
         "second network's map of another image, not two maps of the second network."),
        (same - cosine_similarity(a.flatten(1), b.roll(1, 0).flatten(1)), "That is the image *before*: image i is "
         "to be compared with image i + 1, so that everybody gets the same numbers (roll by −1)."),
        (same - cosine_similarity(a.roll(-1, 0).flatten(1), b.flatten(1)), "You moved the first network's maps; move "
         "the second's."),
        (same - cosine_similarity(a.flatten(1), b.roll(-1, 1).flatten(1)), "You moved the rows of pixels of each map. "
         "Move along the first axis, the images."),
    ):  # fmt: skip
        if _close(found, wrong):
            return hint
    return None if _close(found, right) else "Not yet: cosine(a[i], b[i]) − cosine(a[i], b[i + 1]), flattened maps."


def exercise_2(answer: Callable[[list[float]], float]) -> str | None:
    """`flip_p(differences)`: the exact two-sided p value of the sign-flip test."""
    cases = [[0.4, 1.1, -0.2, 0.9, 0.6], [0.3, 0.1, 0.2], [1.0, 2.0, -0.5], [-0.3, -0.9, -0.4, -0.2, 0.1, -0.6]]
    found = [float(answer(list(case))) for case in cases]
    right = [float(sign_flip(case)[0]) for case in cases]
    if np.allclose(found, right, atol=1e-9):
        tied = [0.1, 0.2, -0.3, 0.4]  # 0.4 and 0.4, but for the last bit
        if not np.isclose(float(answer(tied)), float(sign_flip(tied)[0])):
            return (
                f"For {tied} patterns whose sums differ by a rounding error must count as ties. Compare with a "
                "little room, such as 1e-12."
            )
        return None
    for wrong, hint in (
        (
            [_flips(c, two_sided=False) for c in cases],
            "That is one-sided: a mean as far below zero counts as well.",
        ),
        ([_flips(c, strict=True) for c in cases], "The pattern that was found is one of all: count “at least”."),
        ([p - 2 / 2 ** len(c) for p, c in zip(right, cases, strict=True)], "The pattern found, and its mirror image, "
         "are among the 2ⁿ."),
        ([2 * p for p in right], "|mean| counts both sides already: do not double it again."),
        ([1 - p for p in right], "That is the share of patterns that do *worse*: p is the share that do "
         "at least as well."),
        ([p * 2 ** len(c) for p, c in zip(right, cases, strict=True)], "That is a number of patterns: divide by 2ⁿ."),
    ):  # fmt: skip
        if np.allclose(found, wrong, atol=1e-9):
            return hint
    return (
        "Not yet: for each of the 2ⁿ patterns of signs, take |mean| of the differences with these signs; p is the "
        "share that is at least as large as |mean| of the differences themselves."
    )


def exercise_3(answer: Callable[[int, float], int]) -> str | None:
    """`seeds_needed(measures, level)`: the fewest seeds with which Holm's test could reject one of the measures."""
    cases = [(1, 0.05), (6, 0.05), (7, 0.05), (24, 0.05), (6, 0.01), (1, 0.5)]
    found = [answer(*case) for case in cases]
    right = [_seeds(*case) for case in cases]
    if found == right:
        return None
    for wrong, hint in (
        ([_seeds(1, level) for _, level in cases], "You left the number of measures out: Holm's first step compares "
         "the smallest p with level / measures."),
        ([_seeds(m, level, sides=1) for m, level in cases], "The smallest two-sided p is 2 / 2ⁿ: all signs "
         "alike, in one direction or the other."),
        ([_seeds(m, level) - 1 for m, level in cases], "One too few: p must be *at most* level / measures."),
        ([_seeds(m, level) + 1 for m, level in cases], "One too many: p may be *equal* to level / measures."),
        ([next(n for n in range(2, 99) if 0.5**n <= level / m / 2 - 1e-15) for m, level in cases], "At equality it "
         "is rejected too."),
    ):  # fmt: skip
        if found == wrong:
            return hint
    return "Not yet: the smallest n with 2 / 2ⁿ ≤ level / measures."


def _specific(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    return cosine_similarity(a, b) - cosine_similarity(a, b.roll(-1, 0))


def _flips(values: list[float], *, two_sided: bool = True, strict: bool = False) -> float:
    def size(x: float) -> float:
        return abs(x) if two_sided else x

    means = [size(float(np.mean(np.multiply(values, s)))) for s in itertools.product([1, -1], repeat=len(values))]
    limit = size(float(np.mean(values)))
    return float(np.mean([m > limit + 1e-12 if strict else m >= limit - 1e-12 for m in means]))


def _seeds(measures: int, level: float, sides: int = 2) -> int:
    return next(n for n in range(1, 99) if sides / 2**n <= level / measures * (1 + 1e-12))


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.double(), wanted.double(), atol=1e-5)
