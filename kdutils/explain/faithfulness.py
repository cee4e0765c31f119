"""Is an explanation right? What happens to the model when what the map points at is taken away.

Every measure takes maps (N, H, W) for images (N, C, H, W), all channels of a pixel being changed at once, and
gives one number (or curve) per image; those that say so take tables (N, F) too. None gives NaN: each says what a
zero or constant map gets, and :func:`kdutils.explain.is_flat` tells which maps those are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.linalg import solveh_banded
from threadpoolctl import threadpool_limits  # comes with scikit-learn
from torch import Tensor, nn

from kdutils import _base
from kdutils.explain._inputs import CHUNK, Baseline, baseline_for, check, check_maps

Fill = Literal["mean", "blur"]
Order = Literal["most", "least"]
Perturbation = Literal["noise", "squares"]


def deletion_curve(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    fill: Fill = "mean",
    steps: int = 28,
    seed: int = 0,
) -> Tensor:
    """The target's probability while the pixels with the highest values are removed first.

    Petsiuk et al. 2018 (RISE, arXiv:1806.07421, section 4.3). A right map makes it fall fast: a low :func:`area`.

    Args:
        model: in eval mode; takes `images` and gives logits (N, K).
        images: normalised floats (N, C, H, W); or a table (N, F).
        maps: signed floats (N, H, W); or (N, F). Only their order counts: what argues against the target goes last.
        targets: int64 (N,).
        fill: what stands in for a removed pixel: "mean" is zero in normalised space, the mean image; "blur"
            the image under a Gaussian of a seventh of its height and width (σ = 4 pixels of 28).
        steps: equal steps, at most one per pixel; after step s, ⌊s · H · W / steps⌋ pixels are gone, after
            the last one all of them.
        seed: of the order among pixels of equal value, which is random, so that it favours no corner: a constant
            map is a random order.

    Returns:
        float32 (N, steps + 1) on the CPU, softmax probabilities; column 0 is the image as it is.

    Raises:
        ValueError: for what :func:`kdutils.explain.attribute` refuses, maps that do not fit the images or hold NaN,
            an unknown fill, "blur" on a table, or steps not in 1 to H · W.
    """
    return _curve(model, images, maps, targets, fill, steps, seed, insert=False)


def insertion_curve(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    fill: Fill = "mean",
    steps: int = 28,
    seed: int = 0,
) -> Tensor:
    """The target's probability while the pixels with the highest values are put back first into the filled image.

    As :func:`deletion_curve`, from the other end: column 0 is the filled image, the last one the image as it is.
    A right map makes it rise fast: a high :func:`area`.
    """
    return _curve(model, images, maps, targets, fill, steps, seed, insert=True)


def area(curves: Tensor) -> Tensor:
    """The area under each curve over a width of 1, by the trapezoidal rule: its mean height.

    Args:
        curves: floats (N, steps + 1), at equal distances.

    Returns:
        (N,), of the same type.
    """
    if not isinstance(curves, Tensor) or curves.dim() != 2 or curves.shape[1] < 2 or not curves.is_floating_point():
        got = f"{curves.dtype} {tuple(curves.shape)}" if isinstance(curves, Tensor) else f"a {type(curves).__name__}"
        raise ValueError(f"curves must be floats (N, steps + 1) with at least one step, got {got}.")
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)


def completeness(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor, baseline: Baseline = "mean"
) -> Tensor:
    """sum(map) − (logit(image) − logit(baseline)): zero for methods that share the difference out among the pixels.

    Sundararajan et al. 2017 (arXiv:1703.01365, proposition 1). Images or tables. Sums are taken in float64, but
    float32 maps have been rounded: that alone can leave 6e-8 times the sum of |map|.

    Args:
        model: in eval mode.
        images: (N, C, H, W) or (N, F).
        maps: (N, H, W) or (N, F), made with the same baseline.
        targets: int64 (N,).
        baseline: as for :func:`kdutils.explain.attribute`.

    Returns:
        float32 (N,) on the CPU, in units of the logit.
    """
    check(model, images, targets)
    check_maps(images, maps)
    start = baseline_for(images, baseline)
    with torch.no_grad():
        lowest = model(start.to(_base.model_device(model))).double().cpu()[0, targets.cpu()]
    gaps = []
    for part, chosen in _chunks(model, images, targets):
        gaps.append(_logits(model, part, chosen))
    return (maps.detach().cpu().double().flatten(1).sum(1) - (torch.cat(gaps) - lowest)).float()


def infidelity(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    samples: int = 64,
    noise: float = 0.03,
    seed: int = 0,
    perturb: Perturbation = "noise",
) -> Tensor:
    """How badly a map foretells what a change of the image does to the logit, at the scale that suits the map best.

    Yeh et al. 2019 (arXiv:1901.09392, definition 2.1), with the scale of their code: the mean over perturbations I of
    (β · told − (logit(x) − logit(x − I)))², β being the best number for each map. A pixel's channels are changed
    together, for which a map summed over channels is exact.

    Args:
        model: in eval mode.
        images: (N, C, H, W); or a table (N, F), for "noise" only.
        maps: (N, H, W) or (N, F).
        targets: int64 (N,).
        samples: draws of I per image.
        noise: standard deviation of Gaussian I, in normalised units; the larger, the less any map can foretell.
        seed: of the perturbations; with the same seed every map faces the same ones.
        perturb: "noise" is for maps that are slopes, logit per unit of input, such as saliency: told = ⟨I, map⟩.
            "squares" is for maps in units of the logit, such as integrated gradients, occlusion or SHAP: a square
            anywhere, of side 1 to half the shorter side, becomes the mean image, told = sum(map inside it).

    Returns:
        float32 (N,) on the CPU, logit²; lower is better. A zero map gets the mean of (logit(x) − logit(x − I))²,
        and no map gets more: divided by that, it is the share that the map leaves unexplained.
    """
    check(model, images, targets)
    check_maps(images, maps)
    _base.check_positive_int("samples", samples)
    _base.check_number("noise", noise, 0, above=True)
    _base.check_seed(seed)
    if perturb not in ("noise", "squares"):
        raise ValueError(_base.nearest("perturb", perturb, ("noise", "squares")))
    if perturb == "squares" and images.dim() != 4:
        raise ValueError(f'perturb "squares" needs images (N, C, H, W), got inputs of shape {tuple(images.shape)}.')
    generator = torch.Generator().manual_seed(seed)
    found = []
    for (part, chosen), weights in zip(_chunks(model, images, targets), maps.split(CHUNK), strict=True):
        weights = weights.detach().cpu().double()
        before, told, fell = _logits(model, part, chosen), [], []
        for _ in range(samples):
            if perturb == "noise":
                change = noise * torch.randn(weights.shape, generator=generator)
                moved = part - _spread(change, part)
            else:
                change = _squares(weights.shape, generator)
                moved = part * ~_spread(change, part)
            told.append((change * weights).flatten(1).sum(1))
            fell.append(before - _logits(model, moved, chosen))
        a, b = torch.stack(told, 1), torch.stack(fell, 1)
        scale = (a * b).sum(1) / (a * a).sum(1).clamp(min=1e-300)
        found.append((scale[:, None] * a - b).square().mean(1).float())
    return torch.cat(found)


def max_sensitivity(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """How far a map can be moved by moving the image a little, relative to the map's norm.

    Yeh et al. 2019 (arXiv:1901.09392, definition 3.1): the largest ‖map(x + δ) − map(x)‖ / ‖map(x)‖ over draws of δ,
    uniform within ±`radius` for every value. The method's own noise is the same in every draw. Images or tables.

    Args:
        model: in eval mode.
        images: (N, C, H, W) or (N, F).
        targets: int64 (N,).
        method: a name in `METHODS`.
        radius: in normalised units.
        samples: draws of δ; more of them can only raise the value.
        seed: of δ and of the method.
        options: of the method.

    Returns:
        float32 (N,) on the CPU; lower is steadier, and says nothing about being right. Where map(x) is zero the
        norm is not divided by, as in Captum: 0 if the maps stay zero.
    """
    from kdutils.explain import attribute

    check(model, images, targets)
    _base.check_number("radius", radius, 0, above=True)
    _base.check_positive_int("samples", samples)
    if isinstance(options.get("baseline"), str):  # of these images, not of the moved ones
        options["baseline"] = baseline_for(images, options["baseline"])
    maps = attribute(model, images, targets, method, seed, **options).flatten(1)
    norms = maps.norm(dim=1)
    generator = torch.Generator().manual_seed(seed)
    largest = torch.zeros(len(images))
    for _ in range(samples):
        moved = (2 * torch.rand(images.shape, generator=generator) - 1) * radius
        there = attribute(model, images + moved.to(images), targets, method, seed, **options).flatten(1)
        largest = torch.maximum(largest, (there - maps).norm(dim=1) / torch.where(norms > 0, norms, 1.0))
    return largest


def road(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    order: Order = "most",
    noise: float = 0.01,
    seed: int = 0,
) -> Tensor:
    """The target's probability after a share of the pixels is removed and debiased: filled in from their neighbours.

    ROAD, Rong et al. 2022 (arXiv:2202.00449, section 4), noisy linear imputation: each removed pixel is the weighted
    mean of its neighbours (1/6 for direct ones, 1/12 for diagonal ones, those inside the image), all of them solved
    together, plus Gaussian noise. What is removed then leaves no outline from which the class could be read.

    Args:
        model: in eval mode.
        images: (N, C, H, W).
        maps: (N, H, W).
        targets: int64 (N,).
        shares: in (0, 1], each one a removal from the whole image; at least one pixel goes. Where all go, there
            is nothing to fill in from: they become zero, the mean image.
        order: "most" removes the highest values first (a right map: low), "least" the lowest (a right map: high).
        noise: standard deviation, in normalised units (the authors' value).
        seed: of the noise and of the order among equal values; the same noise for every share.

    Returns:
        float32 (N, len(shares)) on the CPU, softmax probabilities.

    Raises:
        ValueError: as :func:`deletion_curve`, and for an unknown order or shares outside (0, 1].
    """
    check(model, images, targets)
    if images.dim() != 4:
        raise ValueError(f"road needs images (N, C, H, W), got inputs of shape {tuple(images.shape)}.")
    check_maps(images, maps)
    if order not in ("most", "least"):
        raise ValueError(_base.nearest("order", order, ("most", "least")))
    shares = tuple(shares) if isinstance(shares, Sequence) else shares
    if (
        not isinstance(shares, tuple)
        or not shares
        or not all(isinstance(s, int | float) and 0 < s <= 1 for s in shares)
    ):
        raise ValueError(f"shares must be numbers above 0 and up to 1, at least one, got {shares!r:.60}.")
    _base.check_number("noise", noise, 0)
    _base.check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for (part, chosen), ranking in zip(_chunks(model, images, targets), maps.split(CHUNK), strict=True):
        ranks = _ranks(ranking if order == "most" else -ranking, generator).view(ranking.shape)
        grain = noise * torch.randn(part.shape, generator=generator, dtype=torch.float64)
        scores = []
        for share in shares:
            removed = ranks < max(1, round(share * ranks[0].numel()))
            filled = _imputed(part.cpu().double(), removed) + grain * removed[:, None]
            scores.append(_probabilities(model, filled.to(part), chosen))
        columns.append(torch.stack(scores, 1))
    return torch.cat(columns).float()


def _curve(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    fill: Fill,
    steps: int,
    seed: int,
    insert: bool,
) -> Tensor:
    check(model, images, targets)
    check_maps(images, maps)
    if fill not in _FILLS:
        raise ValueError(_base.nearest("fill", fill, _FILLS))
    pixels = maps[0].numel()
    _base.check_positive_int("steps", steps)
    if steps > pixels:
        raise ValueError(f"steps must be at most {pixels}, one per pixel, got {steps}.")
    _base.check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    gone = torch.arange(steps + 1) * pixels // steps
    curves = []
    for (part, chosen), ranking in zip(_chunks(model, images, targets), maps.split(CHUNK), strict=True):
        ranks = _ranks(ranking, generator).to(part.device)
        first, last = part, _FILLS[fill](part)
        if insert:
            first, last = last, first
        scores = []
        for pairs in torch.arange(len(part) * (steps + 1)).split(2 * CHUNK):  # of an image and a step
            n, step = (pairs // (steps + 1)).to(part.device), (pairs % (steps + 1))
            moved = _spread(ranks[n] < gone[step, None].to(part.device), part)
            scores.append(_probabilities(model, torch.where(moved, last[n], first[n]), chosen[n]))
        curves.append(torch.cat(scores).view(-1, steps + 1))
    return torch.cat(curves).float()


def _blurred(images: Tensor) -> Tensor:
    if images.dim() != 4:
        raise ValueError(f'fill "blur" needs images (N, C, H, W), got inputs of shape {tuple(images.shape)}.')
    sigma = (0, 0, images.shape[2] / 7, images.shape[3] / 7)
    return torch.from_numpy(ndimage.gaussian_filter(images.cpu().numpy(), sigma, truncate=3)).to(images)


_FILLS: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.zeros_like, "blur": _blurred}


def _squares(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """One square per image as a mask (N, H, W): its side from 1 to half the shorter side, anywhere inside."""
    count, height, width = shape
    draws = torch.rand(3, count, 1, 1, generator=generator)
    side = 1 + (draws[0] * max(1, min(height, width) // 2)).long()
    rows, columns = (
        (torch.arange(size).view(view) - (draw * (size - side + 1)).long())
        for size, view, draw in ((height, (1, -1, 1), draws[1]), (width, (1, 1, -1), draws[2]))
    )
    return (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)


def _ranks(maps: Tensor, generator: torch.Generator) -> Tensor:
    """The place (N, pixels) of each pixel, 0 for the highest value, drawn by lot among equal values."""
    values = maps.detach().cpu().flatten(1)
    lots = torch.rand(values.shape, generator=generator).argsort(1)
    order = lots.gather(1, values.gather(1, lots).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1)


def _imputed(images: Tensor, removed: Tensor) -> Tensor:
    """`images` (N, C, H, W) with the pixels of `removed` (N, H, W) solved from their neighbours; float64.

    The system is symmetric, positive definite and, row by row, banded: one band Cholesky for many images.
    """
    count, channels, height, width = images.shape
    together = max(1, 2**22 // (height * width * width))  # images in one system: its band takes some 32 MB
    if count > together:
        parts = zip(images.split(together), removed.split(together), strict=True)
        return torch.cat([_imputed(part, gone) for part, gone in parts])
    values = torch.where(removed[:, None], 0.0, images).permute(0, 2, 3, 1).reshape(-1, channels).numpy().copy()
    nothing_left = removed.flatten(1).all(1)[:, None, None]
    unknown = (removed & ~nothing_left).flatten().numpy().nonzero()[0]
    if len(unknown):
        rows = sparse.kron(sparse.eye(count), _laplacian(height, width), format="csr")[unknown]
        upper = sparse.triu(rows[:, unknown], format="coo")
        reach = int((upper.col - upper.row).max())
        band = np.zeros((reach + 1, len(unknown)))
        band[reach + upper.row - upper.col, upper.col] = upper.data
        with threadpool_limits(1, "blas"):  # blocks are small: threads that wait for one another cost 100 times more
            values[unknown] = solveh_banded(band, -(rows @ values), overwrite_ab=True, check_finite=False)
    return torch.from_numpy(values).view(count, height, width, channels).permute(0, 3, 1, 2)


def _laplacian(height: int, width: int) -> sparse.csr_matrix:
    """Row i: the weights' sum at pixel i, minus the weight of each neighbour; zero at means "the mean of them"."""
    line, row = (sparse.diags([1.0, 1.0], [-1, 1], shape=(n, n)) for n in (height, width))
    weights = (
        sparse.kron(line, sparse.eye(width)) / 6
        + sparse.kron(sparse.eye(height), row) / 6
        + sparse.kron(line, row) / 12
    )
    return (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()


def _chunks(model: nn.Module, images: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    device = _base.model_device(model)
    for part, chosen in zip(images.detach().split(CHUNK), targets.split(CHUNK), strict=True):
        yield part.to(device), chosen.to(device)


def _spread(values: Tensor, images: Tensor) -> Tensor:
    """One value per pixel (N, pixels) in the shape of the images, to be shared by their channels."""
    shape = (-1, 1, *images.shape[2:]) if images.dim() == 4 else (-1, *images.shape[1:])
    return values.view(shape).to(images.device, images.dtype if values.is_floating_point() else values.dtype)


@torch.no_grad()
def _logits(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """float64 (N,), on the CPU."""
    return model(inputs).double().gather(1, targets[:, None])[:, 0].cpu()


@torch.no_grad()
def _probabilities(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """float64 (N,), on the CPU."""
    return model(inputs).double().softmax(1).gather(1, targets[:, None])[:, 0].cpu()
