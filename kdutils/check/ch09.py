"""Checks of chapter 09."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAMES = (
    "mean_over_classes", "no_t_squared", "probabilities_for_logs", "logits_as_targets", "nan_by_hand",
    "weights_swapped", "dkd_two_classes", "teacher_in_train_mode", "teacher_under_autograd", "roles_swapped",
    "wrong_soft_label", "projector_left_out", "student_left_in_eval", "angle_memory", "chosen_on_test",
)  # fmt: skip

# Only digests, so that reading this file does not spoil the riddle.
_DIAGNOSES = {
    "A": "e5caf353723b",
    "B": "266996aa380e",
    "C": "d6d50d74eb10",
    "D": "402da7e58ad3",
    "E": "952965139941",
}

_LOOK_AGAIN = {
    "A": "A: it is finite, zero for equal logits, and has its T². Which of the detectors for losses is left?",
    "B": "B: each step by itself is right. What is different in the second epoch?",
    "C": "C: no gradient flows to the teacher, and the roles are right. Ask for one image in two different batches.",
    "D": "D: the rows fit. Ask the teacher about the very tensor that the student sees.",
    "E": "E: no line of the training is wrong. Which images do two jobs?",
}


def exercise_1(answer: Callable[..., Any]) -> str | None:
    """From the mean over all elements without T² to T² · KL."""
    if not callable(answer):
        return "Write a function of value, classes and temperature."
    generator = torch.Generator().manual_seed(0)
    for classes, temperature in ((10, 4.0), (7, 2.0), (100, 3.0)):
        s, t = (torch.randn(6, classes, generator=generator).double() for _ in range(2))
        log_q, log_p = F.log_softmax(s / temperature, dim=1), F.log_softmax(t / temperature, dim=1)
        logged = float((log_p.exp() * (log_p - log_q)).mean())
        got = float(answer(logged, classes, temperature)) / logged
        right = classes * temperature**2
        if abs(got - right) > 1e-6 * right:
            hints = {
                1.0: "That is the logged value itself: two factors are missing.",
                float(classes): "The classes are mended, the temperature is not: where is T²?",
                temperature**2: "T² is there. But a divergence sums over classes, and the log took the mean.",
                classes * temperature: "The factor of the temperature is T², not T.",
                temperature**2 / classes: "Turned round: the mean made the value smaller, so multiply by the classes.",
                classes / temperature**2: "Turned round: the logged value lacks T², so multiply by it.",
            }
            near = min(hints, key=lambda factor: abs(got - factor))
            if abs(got - near) < 1e-6 * near:
                return hints[near]
            return "Two factors are missing in the log: one for the classes, one for the temperature."
    return None


def exercise_2(answer: Any) -> str | None:
    """The diagnoses of the five mystery functions."""
    if not isinstance(answer, dict) or not answer:
        return 'Give a dictionary from letter to name, such as {"A": "no_t_squared"} with all five letters.'
    given = {str(letter).strip().upper(): name for letter, name in answer.items()}
    for letter, name in given.items():
        if letter not in _DIAGNOSES:
            return f"There is no function {letter:.20}: the letters are {', '.join(_DIAGNOSES)}."
        if name not in NAMES:
            return f"{letter}: {name!r:.40} is not on the list of names."
    missing = [letter for letter in _DIAGNOSES if letter not in given]
    if missing:
        return f"Name all five: {', '.join(missing)} still to come."
    if len(set(given.values())) < len(given):
        return "A name occurs twice, and no mistake does."
    failed = [letter for letter, name in given.items() if _digest(letter, name) != _DIAGNOSES[letter]]
    if failed:
        return f"{len(given) - len(failed)} of 5 are right. {_LOOK_AGAIN[min(failed)]}"
    return None


def exercise_3(answer: Callable[..., Any]) -> str | None:
    """One alarm for every wrong T² · KL."""
    if not callable(answer):
        return "Write a function that takes a loss and returns True or False."
    for soft in (_right, _right_by_tables, _right_in_double):
        verdict = answer(soft)
        if not isinstance(verdict, bool | Tensor) and not hasattr(verdict, "dtype"):
            return f"Return True or False, not {type(verdict).__name__}."
        if bool(verdict):
            return "A false alarm: it fires on right code. Leave a limit, and ask only what T² · KL promises."
    try:
        escaped = [name for name, soft in _BUGGY.items() if not bool(answer(soft))]
    except RuntimeError as error:
        if "require grad" not in str(error):
            raise
        return (
            "Your alarm takes a gradient, and one of the buggy losses passes none to the student: that is wrong, too."
        )
    if escaped:
        return f"{len(escaped)} of {len(_BUGGY)} buggy losses escape. The first of them {_ESCAPES[escaped[0]]}"
    return None


def _digest(letter: str, name: str) -> str:
    return hashlib.sha256(f"{letter}: {name}".encode()).hexdigest()[:12]


def _right(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    log_q, log_p = F.log_softmax(s / temperature, dim=1), F.log_softmax(t / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def _right_by_tables(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    log_q, p = F.log_softmax(s / temperature, dim=1), F.softmax(t / temperature, dim=1)
    return F.kl_div(log_q, p, reduction="none").sum(1).mean() * temperature**2


def _right_in_double(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    return _right(s.double(), t.double(), temperature).to(s.dtype)


def _kl(s: Tensor, t: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """Elements of the divergence."""
    log_q, log_p = F.log_softmax(s / temperature, dim=dim), F.log_softmax(t / temperature, dim=dim)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True)


def _by_hand(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    p, log_q = F.softmax(t / temperature, dim=1), F.log_softmax(s / temperature, dim=1)
    return (p * (p.log() - log_q)).sum(1).mean() * temperature**2


def _probabilities(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    q, p = F.softmax(s / temperature, dim=1), F.softmax(t / temperature, dim=1)
    return F.kl_div(q, p, reduction="batchmean") * temperature**2


def _no_log_target(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    log_q, log_p = F.log_softmax(s / temperature, dim=1), F.log_softmax(t / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean") * temperature**2


_BUGGY: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "mean": lambda s, t, T: _kl(s, t, T).mean() * T**2,
    "sum": lambda s, t, T: _kl(s, t, T).sum() * T**2,
    "no T²": lambda s, t, T: _kl(s, t, T).sum(1).mean(),
    "T": lambda s, t, T: _kl(s, t, T).sum(1).mean() * T,
    "swapped": lambda s, t, T: _right(t, s, T),
    "logs": _no_log_target,
    "probabilities": _probabilities,
    "targets": lambda s, t, T: F.cross_entropy(s / T, t / T) * T**2,
    "hot student": lambda s, t, T: _kl(s * T, t, T).sum(1).mean() * T**2,
    "dim": lambda s, t, T: _kl(s, t, T, dim=0).sum(1).mean() * T**2,
    "twice": lambda s, t, T: _right(s.softmax(1), t.softmax(1), T),
    "itself": lambda s, t, T: _right(t, t, T),
    "by hand": _by_hand,
}

_ESCAPES = {
    "mean": "shrinks when you add classes that nobody predicts.",
    "sum": "doubles when you give it every image twice.",
    "no T²": "is right at T = 1 only: try two temperatures.",
    "T": "is right at T = 1 only, and at T = 2 it is off by a factor of two.",
    "swapped": "is a divergence, but from the student to the teacher: compare a value with one that you know.",
    "logs": "is NaN, and NaN > limit is False.",
    "probabilities": "is below zero.",
    "targets": "changes when a constant is added to all logits of an image.",
    "hot student": "is right at T = 1 only, and not zero for equal logits at another T.",
    "dim": "gives another mean when you split the batch: images must not see each other.",
    "twice": "hardly changes when you multiply all logits by ten: there is one softmax too many.",
    "itself": "does not depend on the student at all.",
    "by hand": "is NaN for a very confident teacher: try logits in the thousands.",
}
