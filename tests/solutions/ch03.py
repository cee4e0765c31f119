"""Chapter 03: dark knowledge."""

import numpy as np
import torch
from torch.nn import functional as F


# −∞ takes the label out of the running, whatever the other logits are.
def exercise_1(logits, labels):
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)


# With p at the label and (1 − p)/(K − 1) elsewhere, the entropy falls from log K to 0 as p goes from 1/K to 1,
# so halving the interval finds the one p.
def exercise_2(label, entropy, classes):
    low, high = 1 / classes, 1.0
    for _ in range(60):
        p = (low + high) / 2
        rest = (1 - p) / (classes - 1)
        found = -p * np.log(p) - (classes - 1) * rest * np.log(rest)
        low, high = (p, high) if found > entropy else (low, p)
    smoothed = np.full(classes, (1 - p) / (classes - 1))
    smoothed[label] = p
    return smoothed


# The choice sees the validation images only; the test images are counted once, at the end.
def exercise_3(val_logits, val_labels, test_logits, test_labels, left_out, biases):
    column = F.one_hot(torch.tensor(left_out), val_logits.shape[1])
    scores = [((val_logits + bias * column).argmax(1) == val_labels).float().mean() for bias in biases]
    bias = biases[torch.stack(scores).argmax()]
    named = (test_logits + bias * column).argmax(1)
    return float(bias), float((named[test_labels == left_out] == left_out).float().mean())


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.
def _in_bits(label, entropy, classes):
    return exercise_2(label, entropy * np.log(2), classes)


def _in_proportion(label, entropy, classes):
    share = entropy / np.log(classes)
    return (1 - share) * np.eye(classes)[label] + share / classes


def _other_root(label, entropy, classes):
    rest = (1 - 1e-9) / (classes - 1)
    return np.where(np.arange(classes) == label, 1e-9, rest)


def _one_neighbour(label, entropy, classes):
    smoothed = 0.7 * np.eye(classes)[label]
    smoothed[(label + 1) % classes] += 0.3
    return smoothed


def _on_test(val_logits, val_labels, test_logits, test_labels, left_out, biases):
    return exercise_3(test_logits, test_labels, test_logits, test_labels, left_out, biases)


def _by_recall(val_logits, val_labels, test_logits, test_labels, left_out, biases):
    of_class = val_labels == left_out
    return exercise_3(val_logits[of_class], val_labels[of_class], test_logits, test_labels, left_out, biases)


def _not_applied(val_logits, val_labels, test_logits, test_labels, left_out, biases):
    bias, _ = exercise_3(val_logits, val_labels, test_logits, test_labels, left_out, biases)
    return bias, exercise_3(val_logits, val_labels, test_logits, test_labels, left_out, biases[:1])[1]


def _on_validation(val_logits, val_labels, test_logits, test_labels, left_out, biases):
    return exercise_3(val_logits, val_labels, val_logits, val_labels, left_out, biases)


WRONG = {
    1: [
        (lambda logits, labels: logits.argmax(1), "first choice"),
        (lambda logits, labels: logits.topk(2).indices[:, 1], "rank"),
        (lambda logits, labels: logits.scatter(1, labels[:, None], 0.0).argmax(1), "−∞"),
        (lambda logits, labels: logits.softmax(1).max(1).values, "argmax"),
    ],
    2: [
        (_in_bits, "bits"),
        (_in_proportion, "proportion"),
        (_other_root, "above 1/K"),
        (_one_neighbour, "equally likely"),
    ],
    3: [
        (_on_test, "on the test images"),
        (_by_recall, "recall alone"),
        (_not_applied, "not added"),
        (_on_validation, "validation images"),
    ],
}
