"""May a difference between two arms of a study be believed? Tests over seeds, corrected for how many were made.

Every function takes paired differences, one row per seed and one column per measure: (n,) or (n, M). The seed is the
unit. Thousands of test images of one network are no sample of networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_SEEDS = 20  # a million sign patterns


def sign_flip(differences: ArrayLike) -> NDArray[np.float64]:
    """Exact two-sided p of "no difference", for each measure: how often would random signs do as well?

    If an arm's label did not matter, each seed's difference might as well have had the other sign (Fisher 1935,
    section 21). All 2ⁿ patterns of signs are tried; p is the share whose |mean| is at least the one found. It can
    never be smaller than 2 / 2ⁿ: 0.0625 for five seeds, 0.0078 for eight.

    Args:
        differences: (n,) or (n, M), n from 2 to 20.

    Returns:
        (M,); (1,) for (n,).

    Raises:
        ValueError: for another shape or number of seeds, NaN or infinity.
    """
    found, flipped = _means(differences)
    return (flipped >= found).mean(0)


def max_t(differences: ArrayLike) -> NDArray[np.float64]:
    """As :func:`sign_flip`, adjusted for all M measures at once, by the largest |t| among them.

    The single-step maxT procedure (Westfall & Young 1993, section 2.5): the same signs flip all measures of a seed,
    so that measures that go together are not paid for twice. The chance of any false positive is at most the level.

    Args:
        differences: (n, M), n from 2 to 20. A measure without any spread among the seeds cannot be scaled.

    Returns:
        (M,), adjusted p.

    Raises:
        ValueError: as :func:`sign_flip`, and for a measure that is the same in every seed.
    """
    values = _checked(differences)
    spread = values.std(0, ddof=1)
    if (spread == 0).any():
        raise ValueError(f"differences must vary among the seeds, but those of measure {int(spread.argmin())} do not.")
    # Σx² is the same under every pattern of signs, so |t| grows with |mean| / √Σx² and needs no spread of its own.
    found, flipped = _means(values / np.sqrt((values**2).sum(0)))
    return (flipped.max(1, keepdims=True) >= found).mean(0)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust p values for their number, whatever their dependence (Holm 1979).

    Args:
        p: (M,), each from 0 to 1.

    Returns:
        (M,): reject those that are at most the level, and the chance of any false positive is at most the level.

    Raises:
        ValueError: for another shape or values outside 0 to 1.
    """
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p must be at least one number from 0 to 1, got {values.tolist()!r:.80}.")
    order = values.argsort()
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def detectable(spread: float, seeds: int, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that a two-sided paired t test finds with probability `power`.

    Args:
        spread: standard deviation of the paired difference over seeds, from a pilot.
        seeds: how many pairs there will be, at least 2.
        level: of the test; divide it by the number of measures for Bonferroni's (and Holm's first) step.
        power: probability of finding it, above `level` and below 1.

    Returns:
        In units of `spread`'s measure.

    Raises:
        ValueError: for a number out of range.
    """
    if not (np.isfinite(spread) and spread > 0):
        raise ValueError(f"spread must be a positive finite number, got {spread!r}.")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 2:
        raise ValueError(f"seeds must be an integer of at least 2, got {seeds!r}.")
    if not 0 < level < power < 1:
        raise ValueError(f"level and power must satisfy 0 < level < power < 1, got {level!r} and {power!r}.")
    from scipy import optimize, stats  # large, and rarely wanted

    limit = stats.f.ppf(1 - level, 1, seeds - 1)  # of t²

    def missing(effect: float) -> float:
        return float(stats.ncf.sf(limit, 1, seeds - 1, seeds * effect**2) - power)

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return spread * float(optimize.brentq(missing, 0.0, high))


def _means(differences: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|mean| as found (M,), and under every pattern of signs (2ⁿ, M), where ties are ties in spite of rounding."""
    values = _checked(differences)
    n = len(values)
    signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    flipped = np.abs(signs @ values) / n
    return flipped[0] - 1e-9 * np.abs(values).max(0), flipped


def _checked(differences: ArrayLike | Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(differences, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not 2 <= len(values) <= MOST_SEEDS or not values.shape[1] or not np.isfinite(values).all():
        raise ValueError(
            f"differences must be finite, of shape (n,) or (n, M) with n from 2 to {MOST_SEEDS}, got {values.shape}."
        )
    return values
