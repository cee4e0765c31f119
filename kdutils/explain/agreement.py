"""How far two maps of the same image agree."""

from __future__ import annotations

from typing import Literal

import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from kdutils import _base

Measure = Literal["cosine", "spearman", "iou", "ssim"]
MEASURES: tuple[Measure, ...] = ("cosine", "spearman", "iou", "ssim")


def map_agreement(maps_a: Tensor, maps_b: Tensor, measure: Measure) -> Tensor:
    """How far two maps of the same image agree, one number per image.

    Args:
        maps_a: (N, H, W) or (N, F).
        maps_b: the same shape.
        measure: "cosine" of the flattened maps, −1 to 1; "spearman", the rank correlation, −1 to 1;
            "iou", intersection over union of the tenth of the pixels with the highest values, 0 to 1;
            "ssim", the structural similarity (Wang et al. 2004; means over 7 × 7 windows inside the map, as
            in scikit-image) of the maps divided by their largest absolute value, images only, −1 to 1.

    Returns:
        float32 (N,), on the CPU. A zero map points nowhere: every measure is then 0, never NaN. A constant
        map ranks nothing: "spearman" and "iou" are 0. Pixels that share the value at the edge of the top
        tenth are left out of it, unless that is the highest value: then all of them are in.

    Raises:
        ValueError: for an unknown measure, different shapes, NaN, or "ssim" on tables or small maps.
    """
    if measure not in MEASURES:
        raise ValueError(_base.nearest("measure", measure, MEASURES))
    if maps_a.shape != maps_b.shape or maps_a.dim() not in (2, 3) or maps_a.numel() == 0:
        raise ValueError(
            "maps_a and maps_b must have the same shape (N, H, W) or (N, F), "
            f"got {tuple(maps_a.shape)} and {tuple(maps_b.shape)}."
        )
    a, b = (_scaled(maps.detach().cpu().double()) for maps in (maps_a, maps_b))
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("maps_a and maps_b must be finite, got NaN or infinity.")
    if measure == "ssim":
        return _ssim(a, b).float()
    a, b = a.flatten(1), b.flatten(1)
    if measure == "cosine":
        return F.cosine_similarity(a, b).float()
    if measure == "spearman":
        rank_a, rank_b = (torch.from_numpy(rankdata(maps.numpy(), axis=1)) for maps in (a, b))
        return F.cosine_similarity(rank_a - rank_a.mean(1, keepdim=True), rank_b - rank_b.mean(1, keepdim=True)).float()
    top_a, top_b = _top(a), _top(b)
    return ((top_a & top_b).sum(1) / (top_a | top_b).sum(1).clamp(min=1)).float()


def _top(maps: Tensor, share: float = 0.1) -> Tensor:
    """The `share` of pixels with the highest values, as a mask; none where the map is constant."""
    k = min(max(1, round(share * maps.shape[1])), maps.shape[1] - 1)
    values = maps.topk(k + 1, dim=1).values
    highest, next_one = values[:, :1], values[:, -1:]
    mask = torch.where(highest > next_one, maps > next_one, maps == highest)
    return mask & (highest > maps.amin(1, keepdim=True))


def _scaled(maps: Tensor) -> Tensor:
    """Each map divided by its largest absolute value; zero maps stay zero."""
    largest = maps.flatten(1).abs().amax(1).clamp(min=1e-300)
    return maps / largest.view(-1, *[1] * (maps.dim() - 1))


def _ssim(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    if a.dim() != 3 or min(a.shape[1:]) < window:
        raise ValueError(f'measure "ssim" needs maps (N, H, W) of at least {window} × {window}, got {tuple(a.shape)}.')
    a, b = a[:, None], b[:, None]
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the scaled maps range over −1 to 1

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (unbiased * (mean(x * x) - mean(x) ** 2) for x in (a, b))
    cov = unbiased * (mean(a * b) - mean_a * mean_b)
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    pointing = a.abs().amax((1, 2, 3)) * b.abs().amax((1, 2, 3)) > 0
    return torch.where(pointing, similarity.mean((1, 2, 3)), 0.0)
