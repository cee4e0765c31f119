"""Checks of chapter 01."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def exercise_1(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """`temper(p, temperature)`: the probabilities at another temperature, from probabilities alone."""
    logits = 3 * torch.randn(5, 4, dtype=torch.float64, generator=_generator())
    p = logits.softmax(1)
    for temperature in (4.0, 0.5):
        found, right = answer(p.clone(), temperature), (logits / temperature).softmax(1)
        if found.shape != p.shape:
            return f"The result must have the shape of p, {tuple(p.shape)}, not {tuple(found.shape)}."
        if _close(found, right):
            continue
        if _close(found, (p / temperature).softmax(1)):
            return "You took p for logits. Which function of p differs from the logits only by a constant in each row?"
        power = p ** (1 / temperature)
        if _close(found, power) or _close(found, power / power.sum()) or _close(found, power / power.sum(0)):
            return "The power is right, but every row must sum to 1: divide by the sum over its classes."
        if _close(found, (logits * temperature).softmax(1)):
            return "The power is upside down: T = 4 must give a softer distribution, not a sharper one."
        if _close(found, p / temperature) or _close(found, p):
            return "Dividing p by T cancels when you normalise. It is log p that is divided by T."
        return f"At T = {temperature:g} this is not softmax(logits/T). Start from p_i ∝ exp(z_i), and raise to a power."
    return None


def exercise_2(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """`my_log_softmax(logits, temperature)`: stable, from scratch, row by row."""
    mild = torch.randn(5, 4, generator=_generator())
    found, right = answer(mild.clone(), 2.0), (mild / 2).log_softmax(1)
    if found.shape != mild.shape:
        return f"The result must have the shape (N, K) of the logits, {tuple(mild.shape)}, not {tuple(found.shape)}."
    if not _close(found, right):
        if _close(found, mild.log_softmax(1)):
            return "The temperature has no effect: divide the logits by it."
        if _close(found, mild.log_softmax(1) / 2):
            return "Divide the logits by T before the log-sum-exp: dividing the result does not give a distribution."
        if _close(found, (mild * 2).log_softmax(1)):
            return "You multiplied by T: a higher temperature must make the distribution softer."
        if _close(found, right.exp()):
            return "These are the probabilities; their logarithm is asked for, without computing them first."
        if _close(found, (mild / 2).log_softmax(0)) or _close(found, mild / 2 - (mild / 2).exp().sum().log()):
            return "The sum must run over the classes of each row, dim=1, and keep that axis (keepdim=True)."
        return "Mild logits come out wrong. Compare with (logits / temperature).log_softmax(dim=1)."
    wild = torch.tensor([[1e5, 1e5 - 3, 0.0, -1e5], [-1e5, -1e5 + 1, -1e5 - 2, -1e5], [0.0, -200.0, 3.0, 1.0]])
    for temperature in (1.0, 4.0):
        found, right = answer(wild.clone(), temperature), (wild / temperature).log_softmax(1)
        if _close(found, right):
            continue
        if found.isnan().any() or (found == math.inf).any():
            return "Large logits give NaN or infinity: subtract the largest logit of each row before you exponentiate."
        if (found == -math.inf).any():
            return "A −∞: some probability underflowed to 0 before its logarithm. Never form p; use z − LSE(z)."
        return "Large logits come out wrong. Do the steps row by row, with the maximum of each row."
    return None


def exercise_3(answer: Callable[[Tensor, float], float]) -> str | None:
    """`temperature_for_entropy(logits, nats)`: the temperature at which the entropy is `nats`."""
    for seed, spread in enumerate((1.0, 5.0, 30.0)):
        logits = spread * torch.randn(10, dtype=torch.float64, generator=_generator(seed))
        for share in (0.5, 0.05, 0.95):
            nats = share * math.log(10)
            temperature = float(answer(logits.clone(), nats))
            if not math.isfinite(temperature) or temperature <= 0:
                return f"The temperature must be positive and finite, not {temperature}: bound the search."
            entropy = _entropy(logits, temperature)
            if abs(entropy - nats) < 1e-5:
                continue
            if abs(_entropy(logits, 1 / temperature) - nats) < 1e-4:
                return "You found 1/T: the logits are divided by the temperature."
            if abs(entropy - nats * math.log(2)) < 1e-4:
                return "Your entropy seems to be in bits: use the natural logarithm."
            if abs(entropy - nats) < 0.02:
                return f"Nearly: the entropy at your T is {entropy:.5f}, not {nats:.5f}. Go on to six digits."
            return (
                f"For logits with a spread of {spread:g} and an entropy of {nats:.3f} you gave T = {temperature:.4g}, "
                f"where it is {entropy:.3f}. Is your interval wide enough? Do you go up when the entropy is too low?"
            )
    return None


def _entropy(logits: Tensor, temperature: float) -> float:
    return float(torch.special.entr((logits / temperature).softmax(0)).sum())


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-5)
