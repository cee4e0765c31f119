"""Chapter 17: Shortcuts, concepts and causes"""

import numpy as np


def exercise_1(said, tags, labels):
    # Only where tag and label differ can one tell which of the two the network obeys.
    conflict = tags != labels
    return float((said == tags)[conflict].double().mean())


def exercise_2(real, placebos):
    # If the concept were a placebo too, it would be one of R + 1 alike: so it is counted above and below the line.
    extreme = (np.abs(placebos) >= abs(real)).sum()
    return (1 + extreme) / (1 + len(placebos))


def exercise_3(treated, outcome, stratum):
    # Within a stratum treated and untreated are alike; the strata are put together as they are among all patients.
    total = 0.0
    for s in np.unique(stratum):
        here = stratum == s
        gap = outcome[here & (treated == 1)].mean() - outcome[here & (treated == 0)].mean()
        total += gap * here.mean()
    return total


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _gaps(treated, outcome, stratum):
    each = [stratum == s for s in np.unique(stratum)]
    return np.array([outcome[h & (treated == 1)].mean() - outcome[h & (treated == 0)].mean() for h in each])


def _of_the_treated(treated, outcome, stratum):
    return _gaps(treated, outcome, stratum) @ [(stratum[treated == 1] == s).mean() for s in np.unique(stratum)]


def _regression(treated, outcome, stratum):
    columns = np.column_stack([treated, *[stratum == s for s in np.unique(stratum)]]).astype(float)
    return np.linalg.lstsq(columns, outcome, rcond=None)[0][0]


WRONG = {
    1: [
        (lambda s, t, y: (s == t).double().mean(), "aligned images"),
        (lambda s, t, y: ((s == t) & (t != y)).double().mean(), "number of images in conflict"),
        (lambda s, t, y: ((s == t) & (t != y)).sum() / ((t != y) & (s != y)).sum(), "divided by the errors"),
        (lambda s, t, y: (s != y)[t != y].double().mean(), "error rate"),
        (lambda s, t, y: (s == y)[t != y].double().mean(), "accuracy"),
    ],
    2: [
        (lambda real, placebos: (1 + (placebos >= real).sum()) / (1 + len(placebos)), "one-sided"),
        (lambda real, placebos: (np.abs(placebos) >= abs(real)).mean(), "p of 0"),
        (lambda real, placebos: (1 + (np.abs(placebos) >= real).sum()) / (1 + len(placebos)), "size of both"),
        (
            lambda real, placebos: (
                2 * min((placebos >= real).sum() + 1, (placebos <= real).sum() + 1) / (1 + len(placebos))
            ),
            "one tail",
        ),
        (lambda real, placebos: (1 + (np.abs(placebos) <= abs(real)).sum()) / (1 + len(placebos)), "turn it round"),
        (lambda real, placebos: (1 + (np.abs(placebos) > abs(real)).sum()) / (1 + len(placebos)), "not >"),
        (lambda real, placebos: (1 + (np.abs(placebos) >= abs(real)).sum()) / len(placebos), "below it"),
    ],
    3: [
        (lambda t, y, z: y[t == 1].mean() - y[t == 0].mean(), "naive"),
        (lambda t, y, z: _gaps(t, y, z).mean(), "equally large"),
        (_of_the_treated, "strata of the treated"),
        (_regression, "how mixed"),
        (lambda t, y, z: -exercise_3(t, y, z), "sign"),
    ],
}
