"""Checks of chapter 10."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GradientOf = Callable[[Tensor], Tensor]


def exercise_1(answer: Callable[[Tensor], Tensor]) -> str | None:
    """`gradient_importance(gradient)`: the share of each pixel in its own map, (N, H, W)."""
    # As many images as columns, so that a sum without keepdim does not fail but comes out wrong, and is told.
    gradient = torch.randn(3, 4, 3, generator=_generator()) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    found, size = answer(gradient.clone()), gradient.abs()
    right = size / size.sum((1, 2), keepdim=True)
    if found.shape != gradient.shape:
        return f"Every pixel has a share: the shape must stay {tuple(gradient.shape)}, not become {tuple(found.shape)}."
    if not _close(found, right):
        if _close(found, gradient / gradient.sum((1, 2), keepdim=True)):
            return "Slopes of both signs cancel in the sum: take absolute values before you add up."
        if _close(found, gradient / size.sum((1, 2), keepdim=True)):
            return "A share is not negative: take the absolute value on top as well."
        if _close(found, size / size.sum()):
            return (
                "You summed over the whole batch. Each image is a map of its own: sum over its height and width only."
            )
        if _close(found, size / size.sum((1, 2))):
            return "The sums were taken for the columns, not for the images: keep the axes with keepdim=True."
        if _close(found, size / size.sum(0)):
            return "You summed over the images. Each map must add up to 1: sum over its height and width."
        if _close(found, size / size.amax((1, 2), keepdim=True)):
            return "Divided by the largest value, a map does not add up to 1: divide by its sum."
        if _close(found, torch.ones_like(gradient)):
            return (
                "Everything is 1: the sum on top runs over the same pixels as the one below. Leave out the one on top."
            )
        if _close(found, gradient.flatten(1).softmax(1).view_as(gradient)):
            return "A softmax adds up to 1 too, but it is not the share of the slope: divide |slope| by its sum."
        return "These are not the shares |slope of the pixel| / sum of |slope| over the pixels of its image."
    gradient[1] = 0
    found = answer(gradient.clone())
    if not torch.isfinite(found).all():
        return "A gradient that is zero everywhere gives 0/0: keep the sum away from zero, with clamp for example."
    if found[1].any():
        return "A gradient that is zero everywhere has nothing to share out: the result must be zeros."
    if not _close(found[0], right[0]) or not _close(found[2], right[2]):
        return "With one zero gradient in the batch, the other maps must come out as before."
    tiny = answer(1e-12 * right)
    if not _close(tiny.sum((1, 2)), torch.ones(3)):
        return "Very small gradients no longer add up to 1: what keeps the sum away from zero is too large."
    return None


def exercise_2(answer: Callable[[GradientOf, Tensor, Tensor, int], Tensor]) -> str | None:
    """`path_attribution(gradient_of, x, baseline, steps)`: integrated gradients by the midpoint rule, (F,)."""
    numbers = torch.randn(4, 6, dtype=torch.float64, generator=_generator(2))
    weight, scale, x, baseline = numbers[0], numbers[1].abs() + 0.5, numbers[2], numbers[3]

    def linear(point: Tensor) -> Tensor:
        return weight.clone()

    def square(point: Tensor) -> Tensor:  # of Σ scale·point², for which the midpoint rule is exact
        return 2 * scale * point

    def cube(point: Tensor) -> Tensor:  # of Σ scale·point³ / 3
        return scale * point**2

    way, steps = x - baseline, 8
    found = answer(linear, x.clone(), baseline.clone(), steps)
    if found.shape != x.shape:
        return f"One number per input: the result must have the shape {tuple(x.shape)}, not {tuple(found.shape)}."
    if not _close(found, way * weight):
        for wrong, hint in (
            (weight, "The mean gradient is only half of it: multiply by the way, x − baseline."),
            (x * weight, "You multiplied by x. What counts is the way from the baseline: x − baseline."),
            (-way * weight, "The sign is turned round: the way goes from the baseline to x."),
            (steps * way * weight, "You added the gradients up: divide by the number of steps to get their mean."),
            (steps * x * weight, "Divide the sum by the number of steps, and multiply by x − baseline, not by x."),
            (way * weight * (steps + 1) / steps, "There is one point too many: `steps` midpoints lie on the path."),
            (way * weight * (steps - 1) / steps, "There is one point too few: `steps` midpoints lie on the path."),
        ):
            if _close(found, wrong):
                return hint
        return "Even for a linear function, where every gradient is the same, it is not (x − baseline) · gradient."
    found = answer(square, x.clone(), baseline.clone(), steps)
    if not _close(found, scale * (x**2 - baseline**2)):
        shift = scale * way * way / steps  # a whole step's difference between left and right ends
        middle = scale * (x**2 - baseline**2)
        if _close(found, scale * way * x):
            return "Your path starts at zero: the points are baseline + α (x − baseline)."
        if _close(found, 2 * scale * x * way):
            return "All gradients seem to be taken at x. Move the point from the baseline to x."
        if _close(found, middle - shift) or _close(found, middle + shift):
            return "You took one end of each step: the midpoints are α = (s + ½) / steps, with s from 0 to steps − 1."
        if _close(found, scale * way * (x**2).sum().sqrt()):
            return "The gradient must be taken at a whole point of the path, not at its length."
        return "For a quadratic function the midpoint rule is exact, yours is not: where do you take the gradients?"
    for steps, tolerance in ((1, None), (400, 1e-4)):
        found = answer(cube, x.clone(), baseline.clone(), steps)
        if tolerance is None:
            if not _close(found, way * cube(baseline + way / 2)):
                return "With a single step, the one gradient must be taken half-way."
        elif (found - scale * (x**3 - baseline**3) / 3).abs().max() > tolerance:
            return (
                "The error does not shrink with the number of steps as it should: does every step have its own point?"
            )
    return None


def exercise_3(answer: Callable[[Tensor, Tensor, int], Tensor]) -> str | None:
    """`probability_slope(logits, jacobian, target)`: ∂ softmax(z)_c / ∂ x, (H, W), from the slopes of all logits."""
    generator = _generator(3)
    weight = torch.randn(5, 12, dtype=torch.float64, generator=generator)
    for target, spread in ((2, 0.3), (0, 0.3), (4, 3.0)):
        x = torch.randn(12, dtype=torch.float64, generator=generator).mul(spread).requires_grad_()
        logits = torch.tanh(weight @ x) + weight[:, 0]
        jacobian = torch.stack([torch.autograd.grad(z, x, retain_graph=True)[0] for z in logits]).view(5, 3, 4)
        p = logits.softmax(0)
        right = torch.autograd.grad(p[target], x)[0].view(3, 4)
        p, logits = p.detach(), logits.detach()
        found = answer(logits.clone(), jacobian.clone(), target)
        if found.shape != right.shape:
            return (
                f"One number per pixel: the result must have the shape {tuple(right.shape)}, not {tuple(found.shape)}."
            )
        if _close(found, right):
            continue
        own, mean = jacobian[target], (p[:, None, None] * jacobian).sum(0)
        for wrong, hint in (
            (own, "That is the slope of the logit."),
            (p[target] * own, "The other logits push too: the softmax's denominator also depends on x."),
            (
                p[target] * (1 - p[target]) * own,
                "That would hold if only z_c moved with x. All the other logits move too.",
            ),
            (own - mean, "Nearly: that is the slope of log p_c. How do the slopes of p_c and of its logarithm differ?"),
            (own - jacobian.sum(0), "The logits enter the denominator weighted by their probabilities, not equally."),
            (
                p[target] * (own - jacobian.sum(0)),
                "The slopes of the other logits are weighted by their probabilities.",
            ),
            (
                p[target] * (own - jacobian.mean(0)),
                "The mean slope is weighted by the probabilities, not the plain mean.",
            ),
            (
                p[target] * (own - (mean - p[target] * own)),
                "The sum over the classes runs over all of them, also over c.",
            ),
            (-right, "The sign is turned round: raising z_c raises p_c."),
            (mean, "Σ p_k ∂z_k/∂x is the mean slope of all logits; compare the slope of z_c with it."),
        ):
            if _close(found, wrong):
                return hint
        return (
            "Not yet. Write log p_c = z_c − log Σ exp(z_k), differentiate both sides, and solve for the slope of p_c."
        )
    return None


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-6)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
