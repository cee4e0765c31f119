"""Checks of chapter 12."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import numpy as np

Game: TypeAlias = Callable[[Collection[int]], float]
Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def exercise_1(answer: Callable[[Game, int], Any]) -> str | None:
    """`fair_share(value, n)`: the Shapley values of a game of n players, (n,)."""
    for n, seed in ((3, 0), (4, 1)):
        value = _game(n, seed)
        found = np.asarray(answer(value, n), dtype=float)
        if found.shape != (n,):
            return f"One share per player is wanted: {n} numbers, but yours have the shape {found.shape}."
        right = _shapley(value, n)
        if _close(found, right):
            continue
        everyone, nobody = set(range(n)), float(value(()))
        alone = np.array([value({i}) - nobody for i in range(n)])
        for wrong, hint in (
            (alone, "That is what each player has alone, the first to come in. Take all orders, not only those."),
            (
                alone + nobody,
                "That is the value of each player alone. What counts is the rise on entering, in all orders.",
            ),
            (
                np.array([value(everyone) - value(everyone - {i}) for i in range(n)]),
                "That is what is lost when each leaves the full team, the last to come in. Take all orders.",
            ),
            (
                np.full(n, (value(everyone) - nobody) / n),
                "The same for everybody adds up, but it is fair only if all add the same to every team.",
            ),
            (_one_order(value, n), "You let the players come in in one order only. Average over all orders."),
            (
                _average(value, n, lambda size, n: 1 / 2 ** (n - 1)),
                "All teams weigh the same in yours (the Banzhaf value). All orders weigh the same: then a team S of "
                "the others weighs |S|! (n − |S| − 1)! / n!.",
            ),
            (math.factorial(n) * right, "You added up over the orders: divide by their number."),
            (-right, "The sign is turned round: the rise is the value with the player minus the value without."),
        ):
            if _close(found, wrong):
                return hint
        if not np.isclose(found.sum(), value(everyone) - nobody):
            return "Your shares do not add up to value(all) − value(nobody): efficiency does not hold."
        return "They add up, but they are not the mean rise over all orders in which the players can come in."
    return None


def exercise_2(answer: Callable[[Array, Array], Any]) -> str | None:
    """`solve(masks, values)`: Shapley values by weighted least squares over all 2ⁿ coalitions, (n,)."""
    for n, seed in ((4, 2), (5, 3)):
        value = _game(n, seed)
        masks = np.array(list(itertools.product([0.0, 1.0], repeat=n)))
        values = np.array([value(np.flatnonzero(mask).tolist()) for mask in masks])
        with np.errstate(all="ignore"):
            found = np.asarray(answer(masks.copy(), values.copy()), dtype=float)
        if found.shape == (n + 1,):
            return f"You gave {n + 1} numbers: leave out the intercept, which is the value of nobody."
        if found.shape != (n,):
            return f"One value per player is wanted: {n} numbers, but yours have the shape {found.shape}."
        if not np.isfinite(found).all():
            return (
                "There is NaN or infinity: the empty and the full coalition have infinite weight. "
                "Take them out of the sum and meet them exactly instead."
            )
        right = _shapley(value, n)
        if _close(found, right):
            continue
        size = masks.sum(1)
        inner = (size > 0) & (size < n)
        comb = np.array([math.comb(n, int(s)) for s in size])
        with np.errstate(divide="ignore"):
            kernel = np.where(inner, (n - 1) / (comb * size * (n - size)), 0.0)
        for wrong, hint in (
            (
                _free(masks, values, np.ones(len(masks))),
                "All coalitions weigh the same in yours: put in the Shapley kernel.",
            ),
            (
                _tied(masks, values, inner * 1.0),
                "The ends are met, but the coalitions between them all weigh the same: put in the Shapley kernel.",
            ),
            (
                _free(masks, values, kernel),
                "The kernel is right, but the two ends are left free. The intercept must be values of nobody, and the "
                "sum of your numbers the whole rise.",
            ),
            (
                _tied(masks, values, kernel * comb),
                "Your weight lacks the number of coalitions of a size: divide by n over |S| (math.comb).",
            ),
            (
                _tied(masks, values - values[0], kernel, rise=values[-1]),
                "Your numbers add up to the value of all. They must add up to the value of all minus that of nobody.",
            ),
            (
                _tied(masks, values, kernel**2),
                "Your weights count twice. In least squares on √w · rows, the root of the weight multiplies the rows.",
            ),
            (
                _tied(masks, values, np.sqrt(kernel)),
                "Your weights count by their root only: in a normal equation it is the weight itself.",
            ),
        ):
            if _close(found, wrong):
                return hint
        if not np.isclose(found.sum(), values[-1] - values[0]):
            return "Your numbers do not add up to the value of all minus the value of nobody: tie the two ends."
        return "They add up, but they are not the Shapley values. Is the weight (n − 1) / (C(n, s) · s · (n − s))?"
    return None


def exercise_3(answer: Callable[[Game, int, int, int], Any]) -> str | None:
    """`interaction_index(value, n, i, j)`: the Shapley interaction index of two players."""
    for n, i, j, seed in ((3, 0, 2, 4), (5, 3, 1, 5)):
        value = _game(n, seed)
        found = float(answer(value, n, i, j))
        right = _interaction(value, n, i, j, _pair_by_orders)
        if _close(found, right):
            continue
        others, share = set(range(n)) - {i, j}, _shapley(value, n)
        for wrong, hint in (
            (
                _delta(value, set(), i, j),
                "That is what the two do when nobody else is there. Average over all teams of the others.",
            ),
            (
                _delta(value, others, i, j),
                "That is what the two do when everybody else is there. Average over all teams of the others.",
            ),
            (
                _interaction(value, n, i, j, lambda size, n: 1 / 2 ** (n - 2)),
                "All teams weigh the same in yours. A team weighs |S|! (n − |S| − 2)! / (n − 1)!, the pair being one.",
            ),
            (
                _interaction(value, n, i, j, _by_orders),
                "Those are the weights of a single player's share. The pair comes in as one: order n − 1 players.",
            ),
            (_interaction(value, n, i, j, lambda size, n: 1.0), "You added the teams up without their weights."),
            (-right, "The sign is turned round: both together minus each alone, plus neither."),
            (right / 2, "That is half of it, which is what shap's interaction matrix holds in each of its two cells."),
            (
                value({i, j}) - value({i}) - value({j}),
                "You left out the value of neither, and of all teams of the others you took only the empty one.",
            ),
            (share[i] + share[j], "That is the sum of the two shares: it says nothing about how they work together."),
        ):
            if _close(found, wrong):
                return hint
        return "Not yet. For every team S of the others: v(S+i+j) − v(S+i) − v(S+j) + v(S), then the weighted mean."
    return None


def _game(n: int, seed: int) -> Game:
    """A random game; its value takes any collection of players, and nobody is worth something too."""
    table = np.random.default_rng(seed).normal(size=2**n).round(3) + 1

    def value(team: Collection[int]) -> float:
        return float(table[sum(1 << int(player) for player in {int(p) for p in team})])

    return value


def _by_orders(size: int, n: int) -> float:
    """In what share of all orders a player comes in after exactly the members of one team of this size."""
    return math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)


def _pair_by_orders(size: int, n: int) -> float:
    return _by_orders(size, n - 1)


def _average(value: Game, n: int, weight: Callable[[int, int], float]) -> Array:
    share = np.zeros(n)
    for i in range(n):
        for team in _teams({*range(n)} - {i}):
            share[i] += weight(len(team), n) * (value(team | {i}) - value(team))
    return share


def _shapley(value: Game, n: int) -> Array:
    return _average(value, n, _by_orders)


def _delta(value: Game, team: set[int], i: int, j: int) -> float:
    return value(team | {i, j}) - value(team | {i}) - value(team | {j}) + value(team)


def _interaction(value: Game, n: int, i: int, j: int, weight: Callable[[int, int], float]) -> float:
    return sum(weight(len(team), n) * _delta(value, team, i, j) for team in _teams({*range(n)} - {i, j}))


def _teams(players: set[int]) -> list[set[int]]:
    return [set(team) for size in range(len(players) + 1) for team in itertools.combinations(players, size)]


def _one_order(value: Game, n: int) -> Array:
    return np.array([value(range(i + 1)) - value(range(i)) for i in range(n)])


def _free(masks: Array, values: Array, weight: Array) -> Array:
    """Weighted least squares with a free intercept."""
    root, design = np.sqrt(weight), np.column_stack([np.ones(len(masks)), masks])
    return np.linalg.lstsq(root[:, None] * design, root * values, rcond=None)[0][1:]


def _tied(masks: Array, values: Array, weight: Array, rise: float | None = None) -> Array:
    """Weighted least squares with both ends met: the intercept is values[0], the sum the rise."""
    rise = values[-1] - values[0] if rise is None else rise
    root, design = np.sqrt(weight), masks[:, :-1] - masks[:, -1:]
    wanted = values - values[0] - masks[:, -1] * rise
    phi = np.linalg.lstsq(root[:, None] * design, root * wanted, rcond=None)[0]
    return np.append(phi, rise - phi.sum())


def _close(found: Any, wanted: Any) -> bool:
    return np.allclose(found, wanted, rtol=1e-5, atol=1e-7)
