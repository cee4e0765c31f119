"""Checks of chapter 06."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def exercise_1(answer: Callable[..., Any]) -> str | None:
    """Bytes of a store of logits."""
    images, views, classes, top = 700, 3, 10, 4
    got = _number(answer(images, views, classes))
    whole = images * views * classes
    if got is None:
        return "Return one number of bytes."
    if got == 4 * whole:
        return "4 bytes are single precision: half precision takes 2."
    if got == whole:
        return "That is the number of logits; each takes 2 bytes."
    if got in (2 * images * classes, 2 * views * classes):
        return "Every image has its logits in every view: images × views × classes numbers."
    if got != 2 * whole:
        return "Without top it is images × views × classes numbers of 2 bytes."
    got = _number(answer(images, views, classes, top))
    one = images * views
    if got == 2 * whole:
        return "With top, only some of the logits are kept."
    if got == 2 * one * top:
        return "The logits alone do not say which classes they belong to: the names are kept, too, and the rest."
    if got == 2 * one * 2 * top:
        return "One number per image and view is missing: what the other classes have together, the rest."
    if got == 2 * one * (top + 1):
        return "The names of the top classes are kept, too: 2 bytes each."
    return None if got == 2 * one * (2 * top + 1) else "With top: top logits, one rest and top names, 2 bytes each."


def exercise_2(answer: Callable[..., Any]) -> str | None:
    """Amdahl's law."""
    for share, factor in ((0.8, 4.0), (0.1, 10.0), (0.5, 1e12), (0.0, 7.0), (1.0, 3.0)):
        got = _number(answer(share, factor))
        if got is None:
            return "Return one number."
        right = 1 / (1 - share + share / factor)
        if np.isclose(got, right):
            continue
        if np.isclose(got, factor):
            return "Only a part becomes that much faster; the rest of the step takes as long as before."
        if np.isclose(got, 1 / right):
            return "That is the new time in units of the old one: the speed-up is its inverse."
        if np.isclose(got, share * factor + 1 - share):
            return "Factors of speed cannot be averaged: add up the times, and then divide."
        if share < 1 and np.isclose(got, 1 / (1 - share)):
            return "That is the most that could be gained, with this part for nothing; it still takes share/factor."
        return f"For the share {share:g} and the factor {factor:g} it is {right:.4g}: new time = rest + part/factor."
    return None


def exercise_3(answer: Callable[..., Any]) -> str | None:
    """The median of the ratios of neighbours."""
    rng = np.random.default_rng(0)
    busy = np.linspace(1, 3, 41) ** 2  # the machine slows down from step to step
    floor = 0.01 * busy * rng.uniform(0.98, 1.02, 41)
    ours = 1.15 * 0.01 * busy * rng.uniform(0.9, 1.1, 41)
    ours[[3, 20, 33]] *= 10
    ratios = ours / floor
    right = float(np.median(ratios))
    got = _number(answer(ours.copy(), floor.copy()))
    if got is None:
        return "Return one number."
    if np.isclose(got, right, rtol=1e-9):
        return None
    if np.isclose(got, 1 / right, rtol=1e-2) or got < 1:
        return "Turned round: how far ours lies above the floor is ours / floor, a number above 1."
    if np.isclose(got, ratios.mean()):
        return "A mean falls for the few steps that took ten times as long: take the median of the ratios."
    if np.isclose(got, ours.mean() / floor.mean()):
        return "The ratio of the means falls for the slow steps twice: compare neighbours, then take the median."
    if np.isclose(got, np.median(ours) / np.median(floor)):
        return "The two medians come from different moments of a machine that slows down: compare neighbours first."
    if np.isclose(got, ratios.min()):
        return "The smallest ratio is the luckiest pair, in which the floor had the hiccup; take the median."
    return "Divide each step of ours by the floor's step beside it, and take the median of these ratios."


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
