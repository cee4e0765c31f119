"""Chapter 13: Is the explanation right?"""

import torch

import kdutils as kd


def exercise_1(curves):
    # Each step is 1 / steps wide and as high as the mean of its two ends.
    heights = (curves[:, 1:] + curves[:, :-1]) / 2
    return heights.mean(1)


def exercise_2(told, fell):
    # β is a least squares fit through the origin, for each map; what it leaves is divided by what a zero map leaves.
    # The clamp matters for a zero map only: β = 0 then, and all is left.
    beta = (told * fell).sum(1) / told.square().sum(1).clamp(min=1e-300)
    left = (beta[:, None] * told - fell).square().sum(1)
    return left / fell.square().sum(1)


def exercise_3(scores, competitors, better):
    # The difference is taken image by image: how hard an image is cancels out. Every competitor must be beaten.
    sign = 1 if better == "high" else -1
    return all(kd.interval(sign * scores, minus=sign * other).low > 0 for other in competitors)


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _shares(told, fell, beta):
    return (beta * told - fell).square().sum(1) / fell.square().sum(1)


def _best(told, fell):
    return ((told * fell).sum(1) / told.square().sum(1))[:, None]


def _correlation(told, fell):
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(told, fell, strict=True)])


def _unpaired(scores, competitors, better):
    sign = 1 if better == "high" else -1
    return all(kd.interval(sign * scores).low > kd.interval(sign * other).high for other in competitors)


WRONG = {
    1: [
        (lambda c: c.mean(1), "half"),
        (lambda c: c.sum(1), "grows with"),
        (lambda c: torch.trapezoid(c, dim=1), "1 wide"),
        (lambda c: c[:, :-1].mean(1), "left end"),
        (lambda c: torch.trapezoid(c, dx=1 / c.shape[1], dim=1), "five steps"),
    ],
    2: [
        (lambda t, f: _shares(t, f, 1.0), "unit of the map"),
        (lambda t, f: _shares(t, f, (t * f).sum() / t.square().sum()), "one β for all"),
        (lambda t, f: 1 - _correlation(t, f) ** 2, "1 − r²"),
        (lambda t, f: 1 - _shares(t, f, _best(t, f)), "is explained"),
        (lambda t, f: _shares(t, f, _best(t, f)), "0/0"),
    ],
    3: [
        (_unpaired, "image by image"),
        (lambda s, c, b: all(kd.interval(s, minus=o).low > 0 for o in c), "direction"),
        (lambda s, c, b: any(exercise_3(s, [o], b) for o in c), "every single one"),
        (lambda s, c, b: all((s.mean() - o.mean()) * (1 if b == "high" else -1) > 0 for o in c), "holds 0"),
        (lambda s, c, b: exercise_3(s, [c.mean(0)], b), "their average"),
    ],
}
