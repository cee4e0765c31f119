"""Checks of chapter 03."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def exercise_1(answer: Callable[..., Any]) -> str | None:
    """The second choice: the most likely class that is not the label."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 10, generator=generator) * 3 - 4  # mostly below zero, and often wrong
    labels = torch.randint(10, (200,), generator=generator)
    got = torch.as_tensor(answer(logits.clone(), labels.clone()))
    if got.shape != labels.shape:
        return "Return one class for each image, shape (N,)."
    if got.is_floating_point():
        return "Return class numbers, not probabilities: argmax instead of max."
    rest = logits.masked_fill(F.one_hot(labels, 10).bool(), -torch.inf)
    hints = {
        "That is the first choice: it is the label wherever the teacher is right. Take the label out first.": (
            logits.argmax(1)
        ),
        "The second in rank is not always what is asked: where the teacher is wrong, its first choice is the answer.": (
            logits.topk(2).indices[:, 1]
        ),
        "Setting the label's logit to 0 does not take it out: the others may be negative. Use −∞.": (
            logits.masked_fill(F.one_hot(labels, 10).bool(), 0).argmax(1)
        ),
        "That is the least likely class: argmax, not argmin.": logits.argmin(1),
    }
    if torch.equal(got, rest.argmax(1)):
        return None
    for hint, wrong in hints.items():
        if torch.equal(got, wrong):
            return hint
    if bool((got == labels).any()):
        return "Some second choice is the label itself: take the label out first."
    return "Not the most likely class other than the label."


def exercise_2(answer: Callable[..., Any]) -> str | None:
    """A smoothed label of a given entropy."""
    for label, entropy, classes in ((2, 0.5, 10), (0, 1.4, 10), (3, 0.9, 5), (1, 1.09, 3)):
        got = np.asarray(answer(label, entropy, classes), dtype=float)
        if got.shape != (classes,):
            return f"Return one probability for each class, shape ({classes},)."
        if (got < 0).any() or not np.isclose(got.sum(), 1, atol=1e-3):
            return "Those are no probabilities: they must not be negative, and must sum to 1."
        if got.argmax() != label or got[label] <= 1 / classes:
            return "The label must be the most likely class: of the two solutions take the one with p above 1/K."
        others = np.delete(got, label)
        if np.ptp(others) > 1e-4:
            return "The other classes must be equally likely: a smoothed label knows nothing of them."
        found = -sum(p * np.log(p) for p in got if p > 0)
        if np.isclose(found, entropy, atol=2e-3):
            continue
        if np.isclose(found, entropy * np.log(2), atol=2e-3):
            return "The entropy comes in nats, not in bits: use the natural logarithm."
        share = entropy / np.log(classes)
        if np.isclose(got[label], 1 - share + share / classes, atol=2e-3) or np.isclose(
            got[label], 1 - share, atol=2e-3
        ):
            return (
                "Entropy does not grow in proportion to the share that is spread: solve for it, by halving an interval."
            )
        if np.isclose(-got[label] * np.log(got[label]), entropy, atol=2e-3):
            return "The entropy sums over all K classes, not over the label alone."
        return f"For entropy {entropy} and {classes} classes yours has entropy {found:.3f}: solve for p at the label."
    return None


def exercise_3(answer: Callable[..., Any]) -> str | None:
    """The recall of a left-out class on test images, its bias chosen on validation images."""
    biases = torch.arange(0, 81) / 8
    for seed in range(2):
        validation, test = _left_out(seed, 300, 2.0), _left_out(seed + 10, 500, 4.0)
        got = answer(validation[0].clone(), validation[1].clone(), test[0].clone(), test[1].clone(), 3, biases.clone())
        try:
            bias, recall = (float(value) for value in got)
        except (TypeError, ValueError):
            return "Return two numbers: the bias, and the recall of the class on the test images."
        chosen = _best(*validation, biases)
        right = _recall(*test, chosen)
        if np.isclose(bias, _best(*test, biases)) and not np.isclose(bias, chosen):
            return "The bias was chosen on the test images: choose on validation, report on test."
        if np.isclose(bias, _best(*validation, biases, only=True)):
            return (
                "By recall alone the largest bias wins, and every image becomes class 3: choose by accuracy over all."
            )
        if np.isclose(bias, -chosen):
            return "The sign is turned round: the bias is added to the logit."
        if not np.isclose(bias, chosen):
            return "That is not the bias with the best validation accuracy (of equal ones, the first)."
        if np.isclose(recall, right, atol=1e-4):
            continue
        if np.isclose(recall, _recall(*test, 0.0), atol=1e-4):
            return "The bias is right, but it is not added before the test images are counted."
        if np.isclose(recall, _recall(*validation, chosen), atol=1e-4):
            return "That is the recall on the validation images: the report belongs to the test images."
        if np.isclose(recall, _accuracy(*test, chosen), atol=1e-4):
            return "That is the accuracy over all classes: of the images of class 3, how many are recognised?"
        return "The bias is right, the recall is not: of the test images of class 3, the share that is called 3."
    return None


def _left_out(seed: int, n: int, gap: float) -> tuple[Tensor, Tensor]:
    """(logits, labels) of a student that puts class 3 too low by about `gap`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=generator)
    logits = torch.randn(n, 10, generator=generator) + 3 * F.one_hot(labels, 10)
    logits[:, 3] -= gap
    return logits, labels


def _moved(logits: Tensor, bias: float) -> Tensor:
    return (logits + bias * F.one_hot(torch.tensor(3), 10)).argmax(1)


def _accuracy(logits: Tensor, labels: Tensor, bias: float) -> float:
    return float((_moved(logits, bias) == labels).double().mean())


def _recall(logits: Tensor, labels: Tensor, bias: float) -> float:
    return _accuracy(logits[labels == 3], labels[labels == 3], bias)


def _best(logits: Tensor, labels: Tensor, biases: Tensor, only: bool = False) -> float:
    score = _recall if only else _accuracy
    return float(biases[int(np.argmax([score(logits, labels, float(bias)) for bias in biases]))])
