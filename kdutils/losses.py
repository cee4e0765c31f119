"""Losses as pure functions of tensors, in nats, averaged over the batch.

Whatever comes in, the mathematics is done in float32 at least, and the result has that type.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The distillation loss T² · KL(softmax(teacher/T) ‖ softmax(student/T)).

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2. The factor T² keeps the size of the
    gradient comparable as T changes. No gradient flows to the teacher.

    Args:
        student_logits: (N, K), any float type.
        teacher_logits: (N, K).
        temperature: T > 0, no unit.

    Returns:
        A scalar in nats, the mean over the batch; zero when both give the same distribution.

    Raises:
        ValueError: for shapes that differ or are not (N, K), an empty batch, or a temperature that is
            not a positive finite number.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    check_temperature(temperature)
    log_p = F.log_softmax(teacher.detach() / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    kd_weight: float,
    ce_weight: float,
) -> Tensor:
    """The combined loss `kd_weight` · :func:`kd_loss` + `ce_weight` · cross-entropy with the labels.

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 2. The two weights are free: they need
    not add up to 1.

    Args:
        student_logits: (N, K), any float type.
        teacher_logits: (N, K).
        labels: int64, (N,), values 0 to K − 1.
        temperature: T > 0 of the first term; the second always has T = 1.
        kd_weight: weight of the first term, ≥ 0.
        ce_weight: weight of the second term, ≥ 0.

    Returns:
        A scalar in nats, the mean over the batch.

    Raises:
        ValueError: as :func:`kd_loss`, and for labels of a wrong shape, type or range, a negative
            weight, or two weights of zero.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    check_weights(kd_weight=kd_weight, ce_weight=ce_weight)
    check_labels(labels, student)
    soft = kd_loss(student, teacher, temperature)
    return kd_weight * soft + ce_weight * F.cross_entropy(student, labels)


def check_temperature(temperature: float) -> None:
    """Raise unless `temperature` is a positive finite number."""
    if not _is_number(temperature) or temperature <= 0:
        raise ValueError(f"temperature must be a positive finite number, got {temperature!r:.60}.")


def check_weights(**weights: float) -> None:
    """Raise unless every weight is a finite number ≥ 0 and at least one is above 0."""
    for name, weight in weights.items():
        if not _is_number(weight) or weight < 0:
            raise ValueError(f"{name} must be a finite number of at least 0, got {weight!r:.60}.")
    if not any(weights.values()):
        raise ValueError(f"{' and '.join(weights)} are both 0: nothing would be learned.")


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise unless `labels` is int64 of shape (N,) with values 0 to K − 1, for logits (N, K), N at least 1."""
    n, k = logits.shape
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be an int64 tensor of shape ({n},), got {type(labels).__name__}.")
    if n == 0:
        raise ValueError("labels is empty: at least one is wanted.")
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise ValueError(f"labels must be int64 of shape ({n},), got {labels.dtype} {tuple(labels.shape)}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= k:
        raise ValueError(f"labels must lie in 0 to {k - 1} ({k} classes), got values from {low} to {high}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    for name, logits in (("student_logits", student), ("teacher_logits", teacher)):
        if not isinstance(logits, Tensor) or logits.dim() != 2 or not logits.is_floating_point() or len(logits) == 0:
            got = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"{name} must be a float tensor of shape (N, K) with N at least 1, got {got}.")
    if student.shape != teacher.shape:
        raise ValueError(
            "student_logits and teacher_logits must have the same shape (N, K), "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    return at_least_float32(student), at_least_float32(teacher)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is of a shorter float type, else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
