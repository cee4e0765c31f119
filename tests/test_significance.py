"""Tests over seeds: against SciPy, by hand, and on simulated studies whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import kdutils as kd
from kdutils import significance

MEASURES, SEEDS = 6, 8


def simulated(studies: int, effect: float = 0.0, seeds: int = SEEDS, together: float = 0.6) -> NDArray[np.float64]:
    """Paired differences (studies, seeds, measures) whose measures go together, with spread 1."""
    random = np.random.default_rng(0)
    shared = random.standard_normal((studies, seeds, 1))
    own = random.standard_normal((studies, seeds, MEASURES))
    return effect + together**0.5 * shared + (1 - together) ** 0.5 * own


@pytest.mark.parametrize("n", [2, 5, 8])
def test_sign_flip_is_scipys_exact_permutation_test(n: int) -> None:
    d = np.random.default_rng(n).standard_normal((n, 3)) + 0.4
    theirs = [stats.permutation_test((c,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue for c in d.T]
    np.testing.assert_allclose(significance.sign_flip(d), theirs, atol=1e-12)


def test_three_seeds_by_hand() -> None:
    # Of the eight patterns of 1, 2, −0.5 four sum to at least 2.5 in size: +++, ++−, and their mirror images.
    assert significance.sign_flip([1.0, 2.0, -0.5]) == pytest.approx([0.5])
    assert significance.sign_flip([1.0, 2.0, 0.5]) == pytest.approx([0.25])


@pytest.mark.parametrize(("n", "least"), [(5, 0.0625), (8, 0.0078125)])
def test_the_smallest_p_is_two_patterns_of_all(n: int, least: float) -> None:
    assert significance.sign_flip(np.full(n, 0.1)) == pytest.approx([least])


def test_eight_seeds_survive_holm_over_six_measures_and_no_more() -> None:
    p = significance.sign_flip(np.full((8, 6), 1.0))
    assert significance.holm(p).max() < 0.05
    assert significance.holm([*p, p[0]]).max() > 0.05


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(significance.holm([0.04, 0.01, 0.03, 0.9]), [0.09, 0.04, 0.09, 0.9])


def test_max_t_of_one_measure_is_sign_flip() -> None:
    d = np.random.default_rng(0).standard_normal(7) + 0.5
    np.testing.assert_allclose(significance.max_t(d[:, None]), significance.sign_flip(d))


def test_max_t_is_the_slow_obvious_thing() -> None:
    d = np.random.default_rng(1).standard_normal((6, 3)) + np.array([0.2, 0.6, 1.0])

    def t(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.abs(x.mean(0)) / (x.std(0, ddof=1) / np.sqrt(len(x)))

    largest = [t(d * np.array(signs)[:, None]).max() for signs in itertools.product([1, -1], repeat=6)]
    slow = [np.mean([each >= value - 1e-9 for each in largest]) for value in t(d)]
    np.testing.assert_allclose(significance.max_t(d), slow)


def test_measures_that_are_copies_are_paid_for_once() -> None:
    d = np.random.default_rng(2).standard_normal((8, 1)) + 0.8
    np.testing.assert_allclose(significance.max_t(np.repeat(d, 6, 1)), np.repeat(significance.sign_flip(d), 6))


@pytest.mark.parametrize("test", [significance.sign_flip, significance.max_t])
def test_units_do_not_matter(test: object) -> None:
    d = np.random.default_rng(3).standard_normal((8, 2))
    assert callable(test)
    np.testing.assert_allclose(test(d), test(d * [1e-6, 1e6]))


def test_under_the_null_the_family_is_wrong_at_most_at_its_rate() -> None:
    studies = simulated(1_000)
    by_holm = [significance.holm(significance.sign_flip(d)).min() <= 0.05 for d in studies]
    by_max_t = [significance.max_t(d).min() <= 0.05 for d in studies]
    limit = stats.binom.ppf(0.999, 1_000, 0.05) / 1_000
    assert np.mean(by_holm) <= limit
    assert np.mean(by_max_t) <= limit
    assert np.mean(by_max_t) > 0.02, "a test that never rejects is of no use"
    uncorrected = [significance.sign_flip(d).min() <= 0.05 for d in studies]
    assert np.mean(uncorrected) > 0.1, "without correction the family rate is too high: that is what is corrected"


def test_intervals_cover_a_planted_effect_at_their_rate() -> None:
    studies = simulated(1_000, effect=0.7)[:, :, 0]
    found = [kd.interval(d) for d in studies]
    covered = np.mean([each.low <= 0.7 <= each.high for each in found])
    assert abs(covered - 0.95) < 3.3 * np.sqrt(0.95 * 0.05 / 1_000)


@pytest.mark.parametrize("power", [0.5, 0.8])
def test_what_is_detectable_is_detected_that_often(power: float) -> None:
    effect = significance.detectable(2.0, SEEDS, level=0.05, power=power)
    studies = 2.0 * simulated(2_000, effect / 2.0)[:, :, 0]
    found = np.mean(stats.ttest_1samp(studies, 0, axis=1).pvalue <= 0.05)
    assert abs(found - power) < 0.035


def test_more_seeds_see_smaller_effects() -> None:
    effects = [significance.detectable(1.0, n) for n in (4, 8, 16, 64)]
    assert effects == sorted(effects, reverse=True)
    assert effects[-1] == pytest.approx(2.8 / np.sqrt(64), rel=0.03)  # (1.96 + 0.84) / √n for many seeds


BAD = [
    (lambda: significance.sign_flip([0.1]), r"differences must be finite.* got \(1, 1\)"),
    (lambda: significance.sign_flip(np.zeros(21)), r"n from 2 to 20, got \(21, 1\)"),
    (lambda: significance.sign_flip([0.1, np.nan]), "differences must be finite"),
    (lambda: significance.sign_flip(np.zeros((2, 2, 2))), r"got \(2, 2, 2\)"),
    (lambda: significance.max_t([[1.0, 2.0], [1.0, 3.0]]), "those of measure 0 do not"),
    (lambda: significance.holm([]), "p must be at least one number from 0 to 1"),
    (lambda: significance.holm([0.2, 1.2]), "p must be .* from 0 to 1"),
    (lambda: significance.detectable(0.0, 8), "spread must be a positive finite number, got 0.0"),
    (lambda: significance.detectable(1.0, 1), "seeds must be an integer of at least 2, got 1"),
    (lambda: significance.detectable(1.0, 8, 0.05, 0.01), "0 < level < power < 1"),
]


@pytest.mark.parametrize(("call", "sentence"), BAD)
def test_bad_input_gets_one_sentence(call: object, sentence: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).count("\n") == 0
