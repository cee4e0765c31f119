"""Chapter 06: distillation on the GPU."""

import numpy as np


# Two bytes for each number: all logits, or the largest ones, what is left, and the names of their classes.
def exercise_1(images, views, classes, top=None):
    numbers = classes if top is None else top + 1 + top
    return 2 * images * views * numbers


# The rest takes as long as before, the part a factor less; times add up, speeds do not.
def exercise_2(share, factor):
    return 1 / (1 - share + share / factor)


# Neighbours saw the same machine, so their ratio is fair; the median does not care about a few hiccups.
def exercise_3(ours, floor):
    return np.median(ours / floor)


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
WRONG = {
    1: [
        (lambda images, views, classes, top=None: 4 * images * views * classes, "half precision takes 2"),
        (lambda images, views, classes, top=None: 2 * images * classes, "every view"),
        (lambda images, views, classes, top=None: images * views * classes, "number of logits"),
        (lambda images, views, classes, top=None: 2 * images * views * (top or classes), "which classes"),
        (lambda images, views, classes, top=None: 2 * images * views * (2 * top if top else classes), "rest"),
    ],
    2: [
        (lambda share, factor: factor, "as long as before"),
        (lambda share, factor: 1 - share + share / factor, "inverse"),
        (lambda share, factor: 1 - share + share * factor, "add up the times"),
        (lambda share, factor: 1 / (1 - share), "for nothing"),
    ],
    3: [
        (lambda ours, floor: np.mean(ours / floor), "mean falls"),
        (lambda ours, floor: ours.mean() / floor.mean(), "ratio of the means"),
        (lambda ours, floor: np.median(ours) / np.median(floor), "different moments"),
        (lambda ours, floor: np.median(floor / ours), "Turned round"),
        (lambda ours, floor: np.min(ours / floor), "luckiest"),
    ],
}
