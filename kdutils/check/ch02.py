"""Checks of chapter 02."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def exercise_1(answer: float) -> str | None:
    """KL(p ‖ q) in nats for p = (1/2, 1/2, 0) and q = (1/4, 1/2, 1/4)."""
    p = torch.tensor([1 / 2, 1 / 2, 0], dtype=torch.float64)
    q = torch.tensor([1 / 4, 1 / 2, 1 / 4], dtype=torch.float64)
    right = float((torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum())
    value = float(answer)
    if abs(value - right) < 2e-3:
        return None
    if math.isinf(value):
        return "That is KL(q‖p): q gives a class that p rules out. In KL(p‖q) this class has weight p = 0."
    if math.isnan(value):
        return "NaN comes from 0 · log 0, which counts as 0 here: the third class adds nothing."
    if abs(value - right / math.log(2)) < 2e-3:
        return "That is in bits. With the natural logarithm it is in nats: multiply by log 2."
    if abs(value - right / math.log(10)) < 2e-3:
        return "That is with the decimal logarithm. Nats need the natural one."
    if abs(value + float(torch.special.xlogy(p, q).sum())) < 2e-3:
        return "That is the cross-entropy H(p, q). Subtract the entropy H(p)."
    if abs(value + right) < 2e-3:
        return "The sign is turned: it is log(p/q), and KL is never negative."
    if abs(value - right / 3) < 2e-3:
        return "You divided by the number of classes. KL is a sum: the weights p already make it a mean."
    return "Write down p · log(p/q) class by class. Two of the three terms are 0."


def exercise_2(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str | None:
    """`my_kd_loss(student_logits, teacher_logits, temperature)`."""
    zs, zt, temperature = *_logits(), 3.0
    log_q, log_p = (zs / temperature).log_softmax(1), (zt / temperature).log_softmax(1)
    kl = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    right = temperature**2 * kl
    found = answer(zs.clone(), zt.clone(), temperature)
    if not isinstance(found, Tensor) or found.dim() != 0:
        return "The result must be a tensor with one number: sum over the classes, then the mean over the batch."
    if not close(found, right):
        hint = what_else(found, zs, zt, temperature)
        return hint or "It is not T²·KL(teacher‖student) in nats. Compare with kd.losses.kd_loss on two rows."
    at_one = F.kl_div(zs.log_softmax(1), zt.softmax(1), reduction="batchmean")
    if not close(answer(zs.clone(), zt.clone(), 1.0), at_one):
        return "It is right at T = 3 but not at T = 1: is a temperature written into it as a number?"
    wild = 1000 * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.5]])
    if not answer(wild, wild.flip(1), 1.0).isfinite():
        return "For logits of ±1000 it is NaN or infinite. Use log_softmax on both sides, never log of softmax."
    student, teacher = zs.clone().requires_grad_(), zt.clone().requires_grad_()
    answer(student, teacher, temperature).backward()
    if student.grad is None or student.grad.norm() == 0:
        return "No gradient reaches the student: something detaches its logits."
    if teacher.grad is not None and teacher.grad.norm() > 0:
        return "A gradient flows to the teacher. Its logits are constants: detach() them."
    return None


def what_else(found: Tensor, zs: Tensor, zt: Tensor, temperature: float) -> str | None:
    """The hint for a distillation loss that is wrong in a usual way, or None; chapter 05 asks for it, too."""
    log_q, log_p = (zs / temperature).log_softmax(1), (zt / temperature).log_softmax(1)
    p = log_p.exp()
    kl = (p * (log_p - log_q)).sum(1).mean()
    classes = zs.shape[1]
    for factor, hint in (
        (1.0, "The factor T² is missing."),
        (temperature, "The factor is T², not T: the gradient shrinks once with 1/T and once with q − p."),
        (1 / classes, "The factor T² is missing, and the mean is taken over the classes too: use batchmean."),
        (temperature**2 / classes, "It is K times too small: the mean is taken over the classes too. Use batchmean."),
        (temperature**2 * len(zs), "It is the sum over the batch: take the mean over the N images."),
        (-(temperature**2), "The sign is turned: KL is never negative."),
    ):
        if close(found, factor * kl):
            return hint
    reverse = (log_q.exp() * (log_q - log_p)).sum(1).mean()
    if close(found, temperature**2 * reverse) or close(found, reverse):
        return "Teacher and student are swapped: the weights in front of the logarithms must be the teacher's."
    cross_entropy = -(p * log_q).sum(1).mean()
    if close(found, temperature**2 * cross_entropy) or close(found, cross_entropy):
        return "This is the cross-entropy. Its gradient is the same, but KL is asked for: subtract H(p)."
    plain = F.kl_div(zs.log_softmax(1), p, reduction="batchmean")
    if close(found, temperature**2 * plain) or close(found, plain):
        return "Only the teacher's logits are divided by T: the student's must be too."
    probabilities = F.kl_div(log_q.exp(), p, reduction="batchmean")
    if close(found, temperature**2 * probabilities) or close(found, probabilities):
        return "kl_div wants the student's log-probabilities first; you gave it probabilities."
    return None


def exercise_3(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str | None:
    """`reverse_gradient(student_logits, teacher_logits, temperature)`: of T²·KL(student ‖ teacher)."""
    for temperature in (3.0, 1.0):
        zs, zt = _logits()
        log_q, log_p = (zs / temperature).log_softmax(1), (zt / temperature).log_softmax(1)
        q, p, ratio = log_q.exp(), log_p.exp(), log_q - log_p
        right = temperature * q * (ratio - (q * ratio).sum(1, keepdim=True)) / len(zs)
        found = answer(zs.clone(), zt.clone(), temperature)
        if found.shape != zs.shape:
            return f"The gradient must have the shape of the logits, {tuple(zs.shape)}, not {tuple(found.shape)}."
        if close(found, right):
            continue
        if close(found, temperature * (q - p) / len(zs)):
            return "This is the gradient of the forward loss. In the reverse one, the weights q depend on z too."
        if close(found, temperature * q * ratio / len(zs)):
            return "Nearly: each row must sum to 0. Which mean have you lost when you differentiated the softmax?"
        if close(found, right * len(zs)):
            return "The loss is a mean over the batch: divide by N."
        if close(found, -right):
            return "The sign is turned: this is the direction of descent, not the gradient."
        if any(close(found, right * temperature**power) for power in (1, -1, -2)):
            return "The power of T is wrong: T² from the loss, and one 1/T from differentiating z/T."
        return "Not the gradient of T²·KL(q‖p). Start with ∂q_i/∂z_k = q_i (1[i=k] − q_k)/T; compare with autograd."
    return None


def _logits() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    zs, zt = (2 * torch.randn(6, 4, dtype=torch.float64, generator=random) for _ in range(2))
    return zs, zt


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and agree to five digits."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-7)
