"""Chapter 11: Attention and class activation."""

import numpy as np
import torch
from scipy.optimize import linprog


def exercise_1(features, weight, targets):
    # Each image takes the row of its own class; the sum over k stays a sum, so that the mean over
    # the cells plus the bias is the logit.
    return torch.einsum("nk,nkij->nij", weight[targets], features)


def exercise_2(attention):
    # Heads averaged, half of each row is the shortcut, and later blocks come from the left.
    eye = torch.eye(attention.shape[-1])
    total = eye
    for block in attention.mean(2):
        total = (block + eye) / 2 @ total
    return total[:, 0, 1:]


def exercise_3(weights, values):
    # All conditions are linear: the same output, a sum of 1, no weight below 0. Among all rows that
    # meet them, take the one that overlaps least with the old row. A linear programme ends in a corner, where
    # at most D + 1 weights are not zero: of 50 tokens the new row looks at 17, and nobody after it can tell.
    conditions = np.vstack([values.numpy().T, np.ones(len(weights))])
    wanted = np.append((weights @ values).numpy(), 1.0)
    found = linprog(weights.numpy(), A_eq=conditions, b_eq=wanted, bounds=(0, None))
    return torch.from_numpy(found.x)


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _roll(attention, order=1, identity=1.0, share=2.0, row=(0, slice(1, None)), heads=lambda a: a.mean(2)):
    total = torch.eye(attention.shape[-1])
    blocks = heads(attention)
    for block in blocks if order == 1 else blocks.flip(0):
        total = (block + identity * torch.eye(attention.shape[-1])) / share @ total
    return total[:, row[0], row[1]]


def _along(weights, values, conditions, step):
    direction = torch.linalg.svd(conditions, full_matrices=True).Vh[-1]  # in the null space of the conditions
    return weights + step * direction


def _with_sum(values):
    return torch.cat([values, torch.ones(len(values), 1, dtype=values.dtype)], 1).T


WRONG = {
    1: [
        (lambda f, w, t: f.sum(1), "as they are"),
        (lambda f, w, t: torch.einsum("nk,nkij->nij", w[:, t].T, f), "take rows"),
        (lambda f, w, t: torch.einsum("k,nkij->nij", w[t[0]], f), "class of its own"),
        (lambda f, w, t: torch.einsum("nk,nkij->nij", w[t], f).relu(), "ReLU"),
        (lambda f, w, t: (w[t][:, :, None, None] * f).mean(1), "averaged over the maps"),
        (lambda f, w, t: torch.einsum("nk,nkij->nij", w[t], f) / 15, "Grad-CAM's scale"),
    ],
    2: [
        (lambda a: _roll(a, order=-1), "turned round"),
        (lambda a: _roll(a, identity=0.0, share=1.0), "shortcut is missing"),
        (lambda a: _roll(a, share=1.0), "add up to 1"),
        (lambda a: _roll(a, row=(slice(1, None), 0)), "column"),
        (lambda a: _roll(a, row=(0, slice(None))), "no patch"),
        (lambda a: a[-1].mean(1)[:, 0, 1:], "last block alone"),
        (lambda a: _roll(a, heads=lambda b: b[:, :, 0]), "first head"),
        (lambda a: ((a.mean(2) + torch.eye(5)) / 2).prod(0)[:, 0, 1:], "matrix product"),
    ],
    3: [
        (lambda a, v: a, "same row"),
        (lambda a, v: a.roll(1), "another order"),
        (lambda a, v: torch.full_like(a, 1 / len(a)), "another one"),
        (lambda a, v: _along(a, v, v.T, 0.01), "add up to 1"),
        (lambda a, v: _along(a, v, _with_sum(v), 10.0), "negative"),
        (lambda a, v: _along(a, v, _with_sum(v), 0.001), "go on"),
    ],
}
