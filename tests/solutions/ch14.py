"""Chapter 14: Does the student explain itself like its teacher?"""

import itertools

import torch

import kdutils as kd


def exercise_1(a, b):
    # What any two maps share, such as their place in the middle, is in both terms and cancels.
    other = b.roll(-1, 0)  # image i + 1 stands where image i stood
    return kd.explain.map_agreement(a, b, "cosine") - kd.explain.map_agreement(a, other, "cosine")


def exercise_2(differences):
    # If the arms' names meant nothing, each difference could as well have had the other sign.
    n = len(differences)
    found = abs(sum(differences)) / n
    patterns = list(itertools.product([1, -1], repeat=n))
    means = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) / n for signs in patterns]
    return sum(mean >= found - 1e-12 for mean in means) / len(patterns)


def exercise_3(measures, level):
    # All signs alike, in one direction or the other: no pattern is rarer than two in 2ⁿ.
    n = 1
    while 2 / 2**n > level / measures:
        n += 1
    return n


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))


def _p(differences, two_sided=True, strict=False, room=1e-12):
    def size(x):
        return abs(x) if two_sided else x

    found, hits = size(sum(differences)), 0
    patterns = list(itertools.product([1, -1], repeat=len(differences)))
    for signs in patterns:
        total = size(sum(s * d for s, d in zip(signs, differences, strict=True)))
        hits += total > found + room if strict else total >= found - room
    return hits / len(patterns)


def _count(measures, level, sides=2):
    n = 1
    while sides / 2**n > level / measures:
        n += 1
    return n


WRONG = {
    1: [
        (_cosine, "agreement itself"),
        (lambda a, b: _cosine(a, b.roll(-1, 0)) - _cosine(a, b), "sign is turned"),
        (lambda a, b: _cosine(a, b) - _cosine(a, b.roll(1, 0)), "*before*"),
        (lambda a, b: _cosine(a, b) - _cosine(a, b.roll(-1, 1)), "rows of pixels"),
        (lambda a, b: _cosine(a, b).mean(), "One number per image"),
    ],
    2: [
        (lambda d: _p(d, two_sided=False), "one-sided"),
        (lambda d: _p(d, strict=True), "at least"),
        (lambda d: 2 * _p(d), "double"),
        (lambda d: _p(d, room=0), "rounding error"),
        (lambda d: _p(d) * 2 ** len(d), "divide by"),
    ],
    3: [
        (lambda measures, level: _count(1, level), "left the number of measures out"),
        (lambda measures, level: _count(measures, level, sides=1), "two-sided"),
        (lambda measures, level: _count(measures, level) + 1, "One too many"),
    ],
}
