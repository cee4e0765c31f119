"""Methods that change the input and watch the logit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from captum import attr
from torch import Tensor, nn

from kdutils import _base
from kdutils.explain._inputs import Baseline, baseline_for, logit, needs_images, rows, what


def occlusion(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    window: int = 4,
    stride: int = 2,
    baseline: Baseline = "mean",
) -> Tensor:
    """How far the logit falls when a window is replaced by the baseline (Zeiler & Fergus 2014, arXiv:1311.2901).

    A window of `window` × `window` pixels, all channels at once, moves by `stride` pixels; at the right and
    the lower edge it may hang over. Each pixel gets the mean fall over the windows that cover it, shared
    equally among its channels. Images only; `stride` ≤ `window` ≤ height and width.
    """
    needs_images("occlusion", images)
    for name, value in (("window", window), ("stride", stride)):
        _base.check_positive_int(name, value)
    channels, height, width = images.shape[1:]
    if window > min(height, width):
        raise ValueError(f"window must be at most {min(height, width)}, the images' shorter side, got {window}.")
    if stride > window:
        raise ValueError(f"stride must be at most window ({window}), or pixels are left out, got {stride}.")
    found: Tensor = attr.Occlusion(model).attribute(
        images,
        sliding_window_shapes=(channels, window, window),
        strides=(channels, stride, stride),
        baselines=baseline_for(images, baseline).expand_as(images),
        target=targets,
        perturbations_per_eval=8,
    )
    return found / channels


def kernel_shap(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 200,
    segments: int | Tensor = 7,
    baseline: Baseline = "mean",
) -> Tensor:
    """Shapley values of segments, by weighted least squares over coalitions (Lundberg & Lee 2017, arXiv:1705.07874).

    A player is a segment of the image, or a column of a table; in a coalition the players outside it show the
    baseline. `samples` coalitions are asked, each with its complement, the same ones for all images (so the model
    is evaluated `samples` × N times, besides the input and the baseline themselves). As in the shap library, all
    coalitions of a size are taken where that many are due, the others drawn with probability by the Shapley kernel,
    none twice; with `samples` ≥ 2ⁿ − 2 for n players the values are exact. The sum of a map is always exactly
    logit(input) − logit(baseline).

    `segments`: g for a grid of g × g patches, or int64 ids (H, W) or (N, H, W), which may be any numbers; of a
    table each column is a player, unless ids (F,) or (N, F) group them. A segment's value is shared equally among
    its pixels and their channels. `samples` must be at least 2n, or 2ⁿ − 2 if that is fewer.
    """
    _base.check_positive_int("samples", samples)

    def solve(masks: Tensor, weights: Tensor, values: Tensor, rise: Tensor) -> Tensor:
        """Around the equal share of the rise, where every player's deviation is orthogonal to "all alike"."""
        players = masks.shape[1]
        centred = masks - masks.mean(1, keepdim=True)
        root = weights.sqrt()[:, None]
        share = rise / players  # (n,)
        rest = values - masks.sum(1, keepdim=True) * share
        return share[:, None] + (torch.linalg.pinv(root * centred) @ (root * rest)).T

    def coalitions(players: int) -> tuple[Tensor, Tensor]:
        wanted = min(2 * players, 2**players - 2) if players < 60 else 2 * players
        if samples < wanted:
            raise ValueError(f"samples must be at least {wanted} for {players} segments or columns, got {samples}.")
        return _shapley_coalitions(players, samples)

    return _regress(model, images, targets, segments, baseline, coalitions, solve)


def lime(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 200,
    segments: int | Tensor = 7,
    baseline: Baseline = "mean",
    width: float = 0.25,
    ridge: float = 1.0,
) -> Tensor:
    """The coefficients of a local linear model of the logit (Ribeiro et al. 2016, arXiv:1602.04938).

    As in the lime library for images: `samples` coalitions in which each segment is in or out by the toss of a coin,
    the first one whole; each weighs √exp(−d² / width²), where d is the cosine distance of its mask to the whole
    one; then a ridge regression with penalty `ridge` and an intercept. A segment's coefficient is shared equally
    among its pixels and channels. Unlike :func:`kernel_shap` the map does not sum to logit(input) −
    logit(baseline), and it shrinks and moves with `width`, `ridge` and `samples`.

    `segments` and `baseline` are those of :func:`kernel_shap`; so are tables, whose columns are in or at the
    baseline (the lime library draws other values for a column).
    """
    _base.check_positive_int("samples", samples)
    _base.check_number("width", width, 0, above=True)
    _base.check_number("ridge", ridge, 0, above=True)

    def coalitions(players: int) -> tuple[Tensor, Tensor]:
        masks = (torch.rand(samples, players, generator=_generator()) < 0.5).double()
        masks[0] = 1
        distance = 1 - masks.mean(1).sqrt()  # the cosine of a 0/1 mask and the whole one is √(share of ones)
        return masks, (-(distance**2) / width**2).exp().sqrt()

    def solve(masks: Tensor, weights: Tensor, values: Tensor, _rise: Tensor) -> Tensor:
        centred = masks - (weights[:, None] * masks).sum(0) / weights.sum()  # which takes the intercept out
        weighted = (weights[:, None] * centred).T
        penalty = ridge * torch.eye(masks.shape[1], dtype=masks.dtype, device=masks.device)
        found: Tensor = torch.linalg.solve(weighted @ centred + penalty, weighted @ values)
        return found.T

    return _regress(model, images, targets, segments, baseline, coalitions, solve)


def segment_ids(images: Tensor, segments: int | Tensor) -> Tensor:
    """The players of each input as int64 ids 0, 1, …: (1, H, W) or (N, H, W); (1, F) or (N, F) for tables."""
    places = images.shape[2:] if images.dim() == 4 else images.shape[1:]
    if isinstance(segments, Tensor):
        shapes = ((*places,), (1, *places), (len(images), *places))
        if segments.dtype != torch.int64 or tuple(segments.shape) not in shapes:
            wanted = f"{shapes[0]} or {shapes[2]}"
            raise ValueError(f"segments must be a number, or int64 of shape {wanted}, got {what(segments)}.")
        flat = segments.reshape(-1, math.prod(places))
        ordered, order = flat.sort(dim=1)
        steps = (ordered.diff(dim=1, prepend=ordered[:, :1]) != 0).long().cumsum(1)
        return torch.empty_like(flat).scatter_(1, order, steps).view(-1, *places)
    _base.check_positive_int("segments", segments)
    if images.dim() == 2:
        return torch.arange(places[0])[None]
    if segments > min(places):
        raise ValueError(f"segments must be at most {min(places)}, the images' shorter side, got {segments}.")
    down, across = (torch.arange(size) * segments // size for size in places)
    return (down[:, None] * segments + across)[None]


def _regress(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    segments: int | Tensor,
    baseline: Baseline,
    coalitions: Callable[[int], tuple[Tensor, Tensor]],
    solve: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Ask the model about coalitions of segments, solve for all images at once, and share out the values.

    `coalitions(players)` gives masks (S, players) and weights (S,); `solve(masks, weights, values (S, n), rise (n,))`
    gives (n, players); values and rise are counted from logit(baseline). All in float64. Images with the same number
    of segments share their coalitions.
    """
    images = images.detach()
    start = baseline_for(images, baseline)
    ids = segment_ids(images, segments).to(images.device)
    players = ids.flatten(1).amax(1) + 1
    found = torch.empty_like(images)
    with torch.no_grad():
        for count in players.unique().tolist():
            chosen = (players == count).expand(len(images)).nonzero()[:, 0]
            own = ids if len(ids) == 1 else ids[chosen]
            masks, weights = (each.to(images.device) for each in coalitions(count))
            x, target = images[chosen], targets[chosen]
            there = model(start)[0].double()[target]
            values = _values(model, x, target, start, masks, own) - there
            rise = logit(model, x, target).double() - there
            shares = solve(masks, weights, values, rise)  # (n, players)
            flat = own.flatten(1).expand(len(x), -1)
            sizes = torch.zeros_like(shares).scatter_add_(1, flat, torch.ones_like(flat, dtype=shares.dtype))
            pixels = (shares / sizes).gather(1, flat).to(images.dtype)
            if images.dim() == 4:
                pixels = (pixels / images.shape[1]).view(len(x), 1, *images.shape[2:])
            found[chosen] = pixels.expand_as(x)
    return found


def _values(model: nn.Module, x: Tensor, targets: Tensor, start: Tensor, masks: Tensor, ids: Tensor) -> Tensor:
    """The logit of every coalition and image, (S, n) in float64."""
    together, parts = max(1, rows(x) // len(x)), []
    for group in masks.bool().split(together):
        shown = group[:, ids]  # (g, 1 or n, H, W), or (g, 1 or n, F)
        if x.dim() == 4:
            shown = shown[:, :, None]
        inputs = torch.where(shown, x, start)  # (g, n, ...)
        parts.append(logit(model, inputs.flatten(0, 1), targets.repeat(len(group))).view(len(group), len(x)).double())
    return torch.cat(parts) if parts else x.new_zeros(0, len(x), dtype=torch.float64)


def _shapley_coalitions(players: int, samples: int) -> tuple[Tensor, Tensor]:
    """At most `samples` coalitions, each followed by its complement, and their weights: (S, players) and (S,).

    Pairs {z, complement} are what is counted: C(n, s) of them for each size s < n/2, half as many for s = n/2. The
    kernel gives a size the mass (n − 1) / (s (n − s)), twice for a pair of sizes.
    """
    sizes = list(range(1, players // 2 + 1))
    pairs = [math.comb(players, size) // (1 + (2 * size == players)) for size in sizes]
    mass = [(2 - (2 * size == players)) / (size * (players - size)) for size in sizes]
    smaller: list[Tensor] = []  # one of each pair
    weights: list[Tensor] = []
    left = samples // 2
    while sizes and left * mass[0] / sum(mass) >= pairs[0] * (1 - 1e-8):  # every coalition of this size is due
        size, count, weight = sizes.pop(0), pairs.pop(0), mass.pop(0)
        members = torch.tensor(list(itertools.islice(itertools.combinations(range(players), size), count)))
        smaller.append(torch.zeros(count, players, dtype=torch.float64).scatter_(1, members, 1.0))
        weights.append(torch.full((count,), weight / count, dtype=torch.float64))
        left -= count
    if sizes and left:
        generator = _generator()
        tries = 4 * left
        drawn = torch.multinomial(torch.tensor(mass, dtype=torch.float64), tries, replacement=True, generator=generator)
        ranks = torch.rand(tries, players, generator=generator).argsort(1).argsort(1)
        picked = ranks < torch.tensor(sizes)[drawn][:, None]
        half = 2 * picked.sum(1) == players
        picked[half] ^= ~picked[half, :1]  # of two halves the one with player 0: the same pair, whichever is drawn
        times: dict[tuple[bool, ...], int] = {}
        for row in map(tuple, picked.tolist()):
            times[row] = times.get(row, 0) + 1
            if len(times) == left:
                break
        smaller.append(torch.tensor(list(times), dtype=torch.float64))
        count_of = torch.tensor(list(times.values()), dtype=torch.float64)
        weights.append(sum(mass) * count_of / count_of.sum())
    if not smaller:
        return torch.zeros(0, players, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    one = torch.cat(smaller)
    return torch.stack([one, 1 - one], dim=1).flatten(0, 1), torch.cat(weights).repeat_interleave(2)


def _generator() -> torch.Generator:
    """From the seed of the global generator, without moving it: every chunk of images gets the same coalitions."""
    return torch.Generator().manual_seed(torch.initial_seed())
