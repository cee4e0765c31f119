"""Checks of chapter 15."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import _base

_NO_GRADIENT = "The value is right, but no gradient reaches the student: don't detach, and stay with tensors."


def exercise_1(answer: Callable[..., Any]) -> str | None:
    """`map_loss(student_maps, teacher_maps)`: 1 − cosine, the mean over the images."""
    generator = _generator(0)
    s, t = (torch.randn(5, 4, 6, generator=generator, dtype=torch.float64) + 0.3 for _ in range(2))
    t = t * torch.arange(1, 6).view(5, 1, 1)
    got = answer(s.clone().requires_grad_(), t.clone())
    if not isinstance(got, Tensor) or got.dim() != 0:
        return "Return one number as a tensor: the mean over the images."
    cosine = F.cosine_similarity(s.flatten(1), t.flatten(1))
    lengths = [x / x.flatten(1).norm(dim=1).view(-1, 1, 1) for x in (s, t)]
    right = (1 - cosine).mean()
    if _close(got, right):
        return None if got.requires_grad else _NO_GRADIENT
    hints = {
        "That is the cosine, which grows as the maps come together: a loss is 1 − cosine.": cosine.mean(),
        "That is minus the cosine: equal maps must give 0, so add 1.": -cosine.mean(),
        "Flatten each map first: a cosine over one axis compares rows or columns.": 1
        - F.cosine_similarity(s, t, dim=1).mean(),
        "Flatten each map first, for each image: a cosine over the last axis compares rows.": 1
        - F.cosine_similarity(s, t, dim=2).mean(),
        "One cosine per image, then the mean: over the whole batch at once, images with large maps decide.": 1
        - F.cosine_similarity(s.flatten(), t.flatten(), dim=0),
        "The maps are compared with their size: how steep the teacher is isn't to be taught, only where.": (s - t)
        .square()
        .mean(),
        "Nearly: the squared distance of the maps of length 1 is twice 1 − cosine.": (lengths[0] - lengths[1])
        .square()
        .sum((1, 2))
        .mean(),
        "Take the mean over the images, not the sum.": (1 - cosine).sum(),
    }
    for hint, value in hints.items():
        if _close(got, value):
            return hint
    return "Not the loss: flatten each image's map, take the cosine of the pair, and the mean of 1 − cosine."


class _Seen(nn.Module):
    """A small network that also gives its maps."""

    def __init__(self) -> None:
        super().__init__()
        with _base.seeded(0):
            self.conv, self.deep, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 3)
        for layer in (self.conv, self.deep, self.head):
            layer.weight.data.normal_(generator=_generator(layer.weight.numel()))
            assert layer.bias is not None
            layer.bias.data.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.deep(torch.tanh(self.conv(x)))
        return self.head(torch.tanh(maps).mean((2, 3))), maps


def exercise_2(answer: Callable[..., Any]) -> str | None:
    """`grad_cam(logits, features, targets)`: (N, h, w), positive, with a gradient to all parameters."""
    x = torch.randn(5, 1, 9, 9, generator=_generator(1))
    targets = torch.tensor([0, 1, 2, 1, 0])
    model = _Seen()
    logits, maps = model(x)
    got = answer(logits, maps, targets)
    shape = (5, 5, 5)
    if not isinstance(got, Tensor) or tuple(got.shape) != shape:
        what = tuple(got.shape) if isinstance(got, Tensor) else f"a {type(got).__name__}"
        return f"One map per image, summed over the channels: {shape} is wanted here, yours is {what}."
    afresh, live = _Seen()(x)  # the answer may have freed the graph of its own
    maps = live.detach()

    def signed_map(score: Tensor) -> Tensor:
        slopes = torch.autograd.grad(score.sum(), live, retain_graph=True)[0]
        return (slopes.mean((2, 3), keepdim=True) * maps).sum(1)

    slopes = torch.autograd.grad(afresh.gather(1, targets[:, None]).sum(), live, retain_graph=True)[0]
    weights = slopes.mean((2, 3), keepdim=True)
    signed = (weights * maps).sum(1)
    if not _close(got, signed.relu()):
        hints = {
            "The ReLU is missing: what speaks against the class would be taught as well.": signed,
            "The absolute value is no ReLU: it makes what speaks against the class speak for it.": signed.abs(),
            "Average the slopes over the places first: one weight per channel.": (slopes * maps).sum(1).relu(),
            "The ReLU comes last, after the sum over the channels.": (weights * maps).relu().sum(1),
            "Take the mean of the slopes over the places, not the sum.": 25 * signed.relu(),
            "Those are the slopes alone: multiply the maps by them.": slopes.sum(1).relu(),
            "Those are the maps of each image's first class: take the logit of the class in targets.": signed_map(
                afresh.amax(1)
            ).relu(),
            "Take the slopes of the logit itself, not of its softmax or of a loss.": signed_map(
                afresh.log_softmax(1).gather(1, targets[:, None])
            ).relu(),
            "Add the logits of the images up, don't average them: each image has its own map.": signed.relu() / len(x),
        }
        for hint, value in hints.items():
            if _close(got, value):
                return hint
        return "Not Grad-CAM: mean slope of each channel × the channel, summed over the channels, ReLU."
    if not got.requires_grad:
        return "The value is right, but no gradient reaches the student: it came out detached."
    try:
        found = torch.autograd.grad(got.square().sum(), list(model.parameters()), allow_unused=True)
    except RuntimeError:
        return "The value is right, but backward() has freed its graph: ask for the slopes with create_graph=True."
    fresh = _Seen()
    logits, maps = fresh(x)
    slopes = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps, create_graph=True)[0]
    cam = (slopes.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    wanted = torch.autograd.grad(cam.square().sum(), list(fresh.parameters()), allow_unused=True)
    named = list(zip([name for name, _ in model.named_parameters()], found, wanted, strict=True))
    for name, ours, theirs in named:
        if theirs is not None and ours is None:
            return (
                f"The value is right, but the gradient does not reach {name}: the slopes depend on the parameters too. "
                "Ask for them with create_graph=True."
            )
    for name, ours, theirs in named:
        if theirs is not None and not _close(ours, theirs):
            return (
                f"The value is right, the gradient of {name} is not: it must flow through the slopes and through the "
                "maps. Detach neither."
            )
    return None


def exercise_3(answer: Callable[..., Any]) -> str | None:
    """`one_point(model, inputs, targets, where)`: input × gradient at where · input, with its graph."""
    with _base.seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Softplus(), nn.Linear(7, 3)).double()
    for parameter in model.parameters():
        parameter.data.normal_(generator=_generator(parameter.numel()))
    x = torch.randn(4, 1, 3, 4, generator=_generator(2), dtype=torch.float64)
    targets, where = torch.tensor([2, 0, 1, 1]), torch.tensor([0.1, 0.9, 0.4, 0.6]).double()
    share = where.view(-1, 1, 1, 1)

    def slope(at: Tensor, graph: bool = False) -> Tensor:
        at = at.detach().requires_grad_()
        chosen = model(at).gather(1, targets[:, None]).sum()
        return torch.autograd.grad(chosen, at, create_graph=graph)[0]

    given = x.clone()
    got = answer(model, given, targets, where.clone())
    if not isinstance(got, Tensor) or got.shape != x.shape:
        what = tuple(got.shape) if isinstance(got, Tensor) else f"a {type(got).__name__}"
        return f"The result has the shape of the inputs, {tuple(x.shape)}; yours is {what}."
    if not _close(got, x * slope(share * x)):
        hints = {
            "The slope is taken at the input: take it at where · input.": x * slope(x),
            "There is a factor where too many. In front stands the input, not where · input; and the gradient is with "
            "respect to the point, not to the input.": share * x * slope(share * x),
            "The factor is missing: the path is as long as the input.": slope(share * x),
            "Take the gradient with respect to the point where · input; with respect to the input it is smaller by the "
            "factor where. (The factor in front is the input.)": share * slope(share * x),
            "Each image has its own place on the path: reshape where to (N, 1, 1, 1).": x * slope(where[0] * x),
            "One mean place for all: each image has its own.": x * slope(where.mean() * x),
        }
        for hint, value in hints.items():
            if _close(got, value):
                return hint
        return "Not one point of the path: input · (∂ logit of the target / ∂ input, taken at where · input)."
    if not got.requires_grad:
        return "The value is right, but no gradient reaches the student: ask for the slope with create_graph=True."
    found = torch.autograd.grad(got.square().sum(), list(model.parameters()), allow_unused=True)
    wanted = torch.autograd.grad(
        (x * slope(share * x, graph=True)).square().sum(), list(model.parameters()), allow_unused=True
    )
    same = all((a is None) == (b is None) for a, b in zip(found, wanted, strict=True))
    if not same or not all(_close(a, b) for a, b in zip(found, wanted, strict=True) if a is not None):
        return "The value is right, its gradient is not: let it flow through the slope to every parameter."
    return None


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.double(), wanted.double(), rtol=1e-4, atol=1e-6)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
