"""Checks of chapter 16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def exercise_1(answer: Callable[[Tensor], Tensor]) -> str | None:
    """`leaves(right)`: from the probabilities of going right at nodes 0, 1, 2 (N, 3) to those of the leaves (N, 4)."""
    right = torch.rand(5, 3, generator=_generator()).double()
    root, a, b = right.T
    truth = torch.stack([(1 - root) * (1 - a), (1 - root) * a, root * (1 - b), root * b], 1)
    found = answer(right.clone())
    if found.shape != truth.shape:
        return f"Four leaves for each image: the result must have the shape (5, 4), not {tuple(found.shape)}."
    if _close(found, truth):
        return None
    for wrong, hint in (
        (truth.flip(1), "You counted from the right: the first leaf is the one at the far left."),
        (
            torch.stack([root * a, root * (1 - a), (1 - root) * b, (1 - root) * (1 - b)], 1),
            "Left and right are mixed up: `right` is the probability of going right, and node 1 is the left child.",
        ),
        (
            torch.stack([(1 - root) * (1 - a), (1 - root) * a, root * (1 - a), root * a], 1),
            "Who goes right at the root comes to node 2: that is column 2 of `right`.",
        ),
        (
            torch.stack([1 - a, a, 1 - b, b], 1),
            "These are the turns below the root only. A path is a product, and its first factor is the root's turn.",
        ),
    ):
        if _close(found, wrong):
            return hint
    if not _close(found.sum(1), torch.ones(5).double()):
        return (
            "The four do not add up to 1: everybody comes to some leaf. Each turn is p on one side, 1 − p on the other."
        )
    return "They add up to 1, but are not the products of the turns on the way: left is 1 − p, right is p."


def exercise_2(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """`share(came, right)`: α of each node (M,), from the chances (N, M) to come there and to go right there."""
    generator = _generator(2)
    came = torch.rand(6, 4, generator=generator).double() ** 3
    right = torch.rand(6, 4, generator=generator).double()
    truth = (came * right).sum(0) / came.sum(0)
    found = answer(came.clone(), right.clone())
    if found.shape != truth.shape:
        return f"One share per node: the result must have the shape (4,), not {tuple(found.shape)}."
    if _close(found, truth):
        return None
    for wrong, hint in (
        (right.mean(0), "That is the plain mean: an image that hardly ever comes to a node must hardly count there."),
        ((came * right).mean(0), "That is the share of *all* images. Divide by those that come to the node."),
        ((came * right).sum(0), "That grows with the number of images: divide by how many come to the node."),
        (1 - truth, "That is the share that goes left."),
        ((right / came).mean(0), "The chance to come to the node is a weight: multiply by it, and divide by its sum."),
        (
            ((came * right).mean(1) / came.mean(1))[:4],
            "You went along the nodes: sum over the images, the first axis.",
        ),
        (came.mean(0), "That is how many come to the node, not where they go from there."),
    ):
        if _close(found, wrong):
            return hint
    return "Not yet: Σ came · right over the images, divided by Σ came over the images, for each node."


def exercise_3(answer: Callable[[Tensor, Tensor, Tensor, Tensor], float]) -> str | None:
    """`beyond(surrogate, control, model, labels)`: how much oftener than the control it errs with the model."""
    generator = _generator(3)
    labels = torch.randint(0, 5, (400,), generator=generator)

    def mostly(base: Tensor, share: float) -> Tensor:
        keep = torch.rand(400, generator=generator) < share
        return torch.where(keep, base, torch.randint(0, 5, (400,), generator=generator))

    model = mostly(labels, 0.7)
    surrogate, control = mostly(model, 0.8), mostly(labels, 0.8)
    wrong = model != labels
    same, by_chance = (surrogate == model).double(), (control == model).double()
    truth = float(same[wrong].mean() - by_chance[wrong].mean())
    found = float(answer(surrogate.clone(), control.clone(), model.clone(), labels.clone()))
    if abs(found - truth) < 1e-6:
        return None
    right = (surrogate == labels).double()
    for value, hint in (
        (
            same[wrong].mean(),
            "That is the surrogate's share alone: take off what the control, which knows no model, gets.",
        ),
        (same.mean() - by_chance.mean(), "On all images most answers are right, and right answers agree. Errors only."),
        (
            same.mean(),
            "That is plain fidelity: ask on the images that the model gets wrong, and take off the control's.",
        ),
        (right.mean() - (control == labels).double().mean(), "That compares accuracies: fidelity is to the *model*."),
        (same[~wrong].mean() - by_chance[~wrong].mean(), "Those are the images that the model gets right."),
        (right[wrong].mean() - (control == labels).double()[wrong].mean(), "Compare with the model's answers there."),
        (-truth, "The other way round: the surrogate minus the control."),
        (same[wrong].sum() - by_chance[wrong].sum(), "Shares, not counts: divide by the number of the model's errors."),
        (
            ((same - by_chance) * wrong).mean(),
            "You divided by all images: divide by the number of images that the model gets wrong.",
        ),
    ):
        if abs(found - float(value)) < 1e-6:
            return hint
    return (
        "Not yet: among the images with model != labels, the mean of surrogate == model minus that of control == model."
    )


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-6)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
