"""Chapter 04, training the teacher."""

import math

import torch


def exercise_1(accuracy, half_width):
    # The standard error is sqrt(p (1 - p) / n), and 95 % lie within 1.96 of them. Solved for n, the
    # half-width is squared: ten times as sharp costs a hundred times as many images.
    return math.ceil(accuracy * (1 - accuracy) * (1.96 / half_width) ** 2)


def exercise_2(labels):
    # Every image gets the frequencies of the classes. The model then says the most frequent class each
    # time, with a confidence that is exactly how often it is right. It is calibrated, and it has not
    # looked at one image: calibration alone does not make a good teacher.
    frequencies = torch.bincount(labels, minlength=10) / len(labels)
    return frequencies.repeat(len(labels), 1)


def exercise_3(share, classes):
    # Cross-entropy is lowest where the softmax equals the target. The right class has
    # 1 - share + share/K, every other one share/K; a gap of logits is the logarithm of that ratio.
    # Smoothing sets a finite goal, where a hard label asks for an infinite gap.
    return math.log((1 - share + share / classes) / (share / classes))


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
WRONG = {
    1: [
        (lambda p, h: p * (1 - p) / h**2, "standard error"),
        (lambda p, h: p * (1 - p) * (2 * 1.96 / h) ** 2, "end to end"),
        (lambda p, h: p * (1 - p) * 1.96 / h, "squared"),
        (lambda p, h: p * (1 - p) * (1.96 / (100 * h)) ** 2, "percent"),
        (lambda p, h: p * (1.96 / h) ** 2, "both factors"),
    ],
    2: [
        (lambda labels: torch.bincount(labels, minlength=10) / len(labels), "one row per image"),
        (lambda labels: torch.bincount(labels, minlength=10).repeat(len(labels), 1), "adds up to 1"),
        (lambda labels: torch.nn.functional.one_hot(labels, 10), "own label"),
        (lambda labels: torch.full((len(labels), 10), 0.1), "equally frequent"),
        (lambda labels: torch.eye(10)[labels.mode().values].repeat(len(labels), 1), "certain"),
    ],
    3: [
        (lambda share, k: math.log((1 - share) * (k - 1) / share), "K − 1"),
        (lambda share, k: (1 - share + share / k) / (share / k), "logarithm"),
        (lambda share, k: 1 - share + share / k, "probability"),
        (lambda share, k: math.log((1 - share) * k / share), "gets its own"),
        (lambda share, k: math.log10((1 - share + share / k) / (share / k)), "natural"),
    ],
}
