"""Chapter 10: Gradients."""

import torch


def exercise_1(gradient):
    # The absolute value first, or slopes of both signs cancel; then divide each map by its own sum.
    # The clamp matters only where the sum is zero: 0 / tiny = 0.
    size = gradient.abs()
    total = size.sum((1, 2), keepdim=True).clamp(min=1e-30)
    return size / total


def exercise_2(gradient_of, x, baseline, steps):
    # The mean of the gradients at the midpoints of `steps` equal steps, times the whole way.
    way = x - baseline
    total = torch.zeros_like(x)
    for step in range(steps):
        alpha = (step + 0.5) / steps
        total += gradient_of(baseline + alpha * way)
    return way * total / steps


def exercise_3(logits, jacobian, target):
    # log p_c = z_c − log Σ exp(z_k), so ∂log p_c = ∂z_c − Σ p_k ∂z_k, and ∂p_c = p_c ∂log p_c.
    # As p_c → 1 the weighted mean tends to ∂z_c itself: the bracket vanishes like 1 − p_c.
    p = logits.softmax(0)
    mean_slope = (p[:, None, None] * jacobian).sum(0)
    return p[target] * (jacobian[target] - mean_slope)


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _path(gradient_of, x, baseline, steps, offset=0.5, start=None, factor=None):
    start = baseline if start is None else start
    factor = x - baseline if factor is None else factor
    alphas = [(step + offset) / steps for step in range(steps)]
    return factor * sum(gradient_of(start + alpha * (x - start)) for alpha in alphas) / steps


WRONG = {
    1: [
        (lambda g: g / g.sum((1, 2), keepdim=True), "cancel"),
        (lambda g: g / g.abs().sum((1, 2), keepdim=True), "not negative"),
        (lambda g: g.abs() / g.abs().sum(), "whole batch"),
        (lambda g: g.abs() / g.abs().amax((1, 2), keepdim=True), "largest value"),
        (lambda g: g.abs().sum() / g.abs().sum() * torch.ones_like(g), "Everything is 1"),
        (lambda g: g.abs() / g.abs().sum((1, 2), keepdim=True), "0/0"),
        (lambda g: g.abs() / g.abs().sum((1, 2)), "keepdim"),
    ],
    2: [
        (lambda f, x, b, n: _path(f, x, b, n, factor=1.0), "multiply by the way"),
        (lambda f, x, b, n: _path(f, x, b, n, factor=x), "multiplied by x"),
        (lambda f, x, b, n: n * _path(f, x, b, n), "divide by the number of steps"),
        (lambda f, x, b, n: _path(f, x, b, n, start=torch.zeros_like(x)), "starts at zero"),
        (lambda f, x, b, n: _path(f, x, b, n, offset=0.0), "one end"),
        (lambda f, x, b, n: _path(f, x, b, n, offset=1.0), "one end"),
        (lambda f, x, b, n: (x - b) * f(x), "taken at x"),
    ],
    3: [
        (lambda z, j, c: z.softmax(0)[c] * j[c], "other logits push"),
        (lambda z, j, c: z.softmax(0)[c] * (1 - z.softmax(0)[c]) * j[c], "only z_c"),
        (lambda z, j, c: j[c] - torch.einsum("k,khw->hw", z.softmax(0), j), "Nearly"),
        (lambda z, j, c: j[c], "slope of the logit"),
        (lambda z, j, c: z.softmax(0)[c] * (j[c] - j.mean(0)), "not the plain mean"),
    ],
}
