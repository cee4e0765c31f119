"""Chapter 12: SHAP and LIME."""

import itertools
import math

import numpy as np


def exercise_1(value, n):
    # All orders weigh the same; each player gets the rise at the moment of entering.
    share = np.zeros(n)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        for place, player in enumerate(order):
            share[player] += value(order[: place + 1]) - value(order[:place])
    return share / len(orders)


def exercise_2(masks, values):
    # The empty and the full coalition have infinite weight: they are met exactly, by leaving out the intercept
    # (what is fitted is values − values[0]) and by writing the last share as what is left of the whole rise.
    n, size = masks.shape[1], masks.sum(1)
    inner = (size > 0) & (size < n)
    masks, size, rise = masks[inner], size[inner], values[-1] - values[0]
    kernel = [(n - 1) / (math.comb(n, int(s)) * s * (n - s)) for s in size]
    root = np.sqrt(kernel)
    design = masks[:, :-1] - masks[:, -1:]
    wanted = values[inner] - values[0] - masks[:, -1] * rise
    phi = np.linalg.lstsq(root[:, None] * design, root * wanted, rcond=None)[0]
    return np.append(phi, rise - phi.sum())


def exercise_3(value, n, i, j):
    # The pair comes in as one player: among n − 1 players, a team S of the others stands before it in
    # |S|! (n − |S| − 2)! of (n − 1)! orders.
    others = [player for player in range(n) if player not in (i, j)]
    total = 0.0
    for size in range(n - 1):
        weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
        for team in itertools.combinations(others, size):
            total += weight * (value({*team, i, j}) - value({*team, i}) - value({*team, j}) + value(team))
    return total


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _banzhaf(value, n):
    teams = [{p for p in range(n) if bits >> p & 1} for bits in range(2**n)]
    return [np.mean([value(team | {i}) - value(team) for team in teams if i not in team]) for i in range(n)]


def _fit(masks, values, weight):  # a free intercept, as in most libraries
    root, design = np.sqrt(weight), np.column_stack([np.ones(len(masks)), masks])
    return np.linalg.lstsq(root[:, None] * design, root * values, rcond=None)[0][1:]


def _kernel(masks):
    n, size = masks.shape[1], masks.sum(1)
    return [(n - 1) / (math.comb(n, int(s)) * s * (n - s)) if 0 < s < n else 0.0 for s in size]


def _tied(masks, values, weight, rise):
    root, design = np.sqrt(weight), masks[:, :-1] - masks[:, -1:]
    phi = np.linalg.lstsq(root[:, None] * design, root * (values - masks[:, -1] * rise), rcond=None)[0]
    return np.append(phi, rise - phi.sum())


def _without_comb(masks, values):
    n, size = masks.shape[1], masks.sum(1)
    weight = [(n - 1) / (s * (n - s)) if 0 < s < n else 0.0 for s in size]
    return _tied(masks, values - values[0], weight, values[-1] - values[0])


def _infinite(masks, values):
    n, size = masks.shape[1], masks.sum(1)
    weight = 1 / (size * (n - size))
    return np.linalg.pinv(masks.T @ np.nan_to_num(masks * weight[:, None], posinf=0)) @ masks.T @ (weight * values)


def _delta(value, team, i, j):
    return value({*team, i, j}) - value({*team, i}) - value({*team, j}) + value(team)


def _teams(n, i, j):
    others = [p for p in range(n) if p not in (i, j)]
    return [team for size in range(n - 1) for team in itertools.combinations(others, size)]


WRONG = {
    1: [
        (lambda v, n: [v({i}) - v(()) for i in range(n)], "alone"),
        (lambda v, n: [v({i}) for i in range(n)], "rise on entering"),
        (lambda v, n: [v(range(n)) - v(set(range(n)) - {i}) for i in range(n)], "leaves the full team"),
        (lambda v, n: [(v(range(n)) - v(())) / n] * n, "same for everybody"),
        (_banzhaf, "Banzhaf"),
        (lambda v, n: [v(range(i + 1)) - v(range(i)) for i in range(n)], "one order"),
        (lambda v, n: math.factorial(n) * exercise_1(v, n), "divide by their number"),
    ],
    2: [
        (lambda m, v: _fit(m, v, np.ones(len(m))), "weigh the same"),
        (lambda m, v: _fit(m, v, _kernel(m)), "left free"),
        (_without_comb, "math.comb"),
        (lambda m, v: _tied(m, v - v[0], _kernel(m), v[-1]), "minus that of nobody"),
        (_infinite, "infinite weight"),
        (lambda m, v: np.append(v[0], exercise_2(m, v)), "intercept"),
    ],
    3: [
        (lambda v, n, i, j: _delta(v, (), i, j), "nobody else"),
        (lambda v, n, i, j: _delta(v, set(range(n)) - {i, j}, i, j), "everybody else"),
        (lambda v, n, i, j: np.mean([_delta(v, team, i, j) for team in _teams(n, i, j)]), "All teams weigh the same"),
        (
            lambda v, n, i, j: sum(
                math.factorial(len(t)) * math.factorial(n - len(t) - 1) / math.factorial(n) * _delta(v, t, i, j)
                for t in _teams(n, i, j)
            ),
            "single player's share",
        ),
        (lambda v, n, i, j: -exercise_3(v, n, i, j), "sign"),
        (lambda v, n, i, j: exercise_1(v, n)[i] + exercise_1(v, n)[j], "sum of the two shares"),
    ],
}
