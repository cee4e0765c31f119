"""Attribution maps behind one verb, and how far two maps agree.

The methods are Captum's (Kokhlikyan et al. 2020, arXiv:2009.07896); this module fixes their defaults,
their seed and their output: one signed float32 map per image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from captum import attr
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import _base

Measure = Literal["cosine", "spearman", "iou", "ssim"]
Baseline = Literal["mean", "black"] | float | Tensor
MEASURES: tuple[Measure, ...] = ("cosine", "spearman", "iou", "ssim")
CHUNK = 128  # inputs explained at a time; bounds the memory, whatever N is


def saliency(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """∂ logit / ∂ input, with its sign (Simonyan et al. 2014, arXiv:1312.6034)."""
    return attr.Saliency(model).attribute(images, target=targets, abs=False)


def input_x_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """input · ∂ logit / ∂ input (Shrikumar et al. 2016, arXiv:1605.01713)."""
    return attr.InputXGradient(model).attribute(images, target=targets)


def integrated_gradients(
    model: nn.Module, images: Tensor, targets: Tensor, *, steps: int = 32, baseline: Baseline = "mean"
) -> Tensor:
    """(input − baseline) · mean gradient on the straight path from baseline to input.

    Sundararajan et al. 2017 (arXiv:1703.01365), eq. 1, by Gauss–Legendre quadrature with `steps` points.
    The map sums to logit(input) − logit(baseline), up to the error of the quadrature.
    """
    _base.check_positive_int("steps", steps)
    start = _baseline(images, baseline)
    method = attr.IntegratedGradients(model)
    return method.attribute(images, start, target=targets, n_steps=steps, internal_batch_size=max(256, len(images)))


def smoothgrad(
    model: nn.Module, images: Tensor, targets: Tensor, *, samples: int = 16, noise: float = 0.15
) -> Tensor:
    """The mean :func:`saliency` of `samples` noisy copies (Smilkov et al. 2017, arXiv:1706.03825).

    `noise` is the standard deviation as a share of the range (maximum − minimum) of the images, taken
    over each batch of at most 128 (the paper: 0.1 to 0.2).
    """
    _base.check_positive_int("samples", samples)
    if not noise > 0:
        raise ValueError(f"noise must be a positive share of the images' range, got {noise!r}.")
    spread = noise * float(images.max() - images.min())
    tunnel = attr.NoiseTunnel(attr.Saliency(model))
    return tunnel.attribute(
        images, nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=4, stdevs=spread, target=targets, abs=False
    )


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

    Each pixel gets the mean over the windows that cover it. Images only.
    """
    if images.dim() != 4:
        raise ValueError(f"occlusion needs images (N, C, H, W), got inputs of shape {tuple(images.shape)}.")
    for name, value in (("window", window), ("stride", stride)):
        _base.check_positive_int(name, value)
    channels = images.shape[1]
    return attr.Occlusion(model).attribute(
        images,
        sliding_window_shapes=(channels, window, window),
        strides=(channels, stride, stride),
        baselines=_baseline(images, baseline),
        target=targets,
        perturbations_per_eval=8,
    )


METHODS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (saliency, input_x_gradient, integrated_gradients, smoothgrad, occlusion)
}


def attribute(
    model: nn.Module, images: Tensor, targets: Tensor, method: str, seed: int = 0, **options: Any
) -> Tensor:
    """Explain one logit per input.

    Args:
        model: in eval mode; takes `images` and gives logits (N, K).
        images: normalised, (N, C, H, W); or a table (N, F).
        targets: int64, (N,), the class whose logit is explained, chosen by you: the label, or
            `model(images).argmax(1)`.
        method: a name in :data:`METHODS`; its docstring says what the map means.
        seed: of methods that draw noise. The global random state is left as it was.
        options: of the method, such as `steps=32` or `baseline="black"`. The default baseline is zero in
            normalised space, that is, the mean image; "black" is the darkest value of each channel
            among `images`; a number or a tensor that broadcasts to one image is taken as it is.

    Returns:
        float32 on the CPU, signed, summed over channels: (N, H, W); for tables (N, F).

    Raises:
        ValueError: for an unknown method or option, a model in training mode, inputs without a batch
            dimension or with NaN, or targets that do not fit.
    """
    _check(model, images, targets, method, options)
    device = _base.model_device(model)
    if isinstance(options.get("baseline"), str):
        options["baseline"] = _baseline(images, options["baseline"])[:1].to(device)  # one for all chunks
    maps = []
    with _base.seeded(seed):
        for chunk, chosen in zip(images.split(CHUNK), targets.split(CHUNK), strict=True):
            inputs = chunk.detach().to(device).clone().requires_grad_()
            found = METHODS[method](model, inputs, chosen.to(device), **options)
            maps.append(found.detach().float().cpu())
    signed = torch.cat(maps)
    return signed.sum(1) if signed.dim() == 4 else signed


def map_agreement(maps_a: Tensor, maps_b: Tensor, measure: Measure) -> Tensor:
    """How far two maps of the same image agree, one number per image.

    Args:
        maps_a: (N, H, W) or (N, F).
        maps_b: the same shape.
        measure: "cosine" of the flattened maps, −1 to 1; "spearman", the rank correlation, −1 to 1;
            "iou", intersection over union of the tenth of the pixels with the highest values, 0 to 1;
            "ssim", the structural similarity (Wang et al. 2004, window 7, as in scikit-image) of the
            maps divided by their largest absolute value, images only, −1 to 1.

    Returns:
        float32 (N,). A map that is constant ranks nothing, and a zero map points nowhere: then
        "cosine" (zero maps), "spearman" and "iou" (constant maps) are 0, never NaN.

    Raises:
        ValueError: for an unknown measure, different shapes, NaN, or "ssim" on tables.
    """
    if measure not in MEASURES:
        raise ValueError(_base.nearest("measure", measure, MEASURES))
    if maps_a.shape != maps_b.shape or maps_a.dim() not in (2, 3) or len(maps_a) == 0:
        raise ValueError(
            "maps_a and maps_b must have the same shape (N, H, W) or (N, F), "
            f"got {tuple(maps_a.shape)} and {tuple(maps_b.shape)}."
        )
    if not (torch.isfinite(maps_a).all() and torch.isfinite(maps_b).all()):
        raise ValueError("maps_a and maps_b must be finite, got NaN or infinity.")
    if measure == "ssim":
        return _ssim(maps_a.double(), maps_b.double()).float()
    a, b = maps_a.double().flatten(1), maps_b.double().flatten(1)
    if measure == "cosine":
        return F.cosine_similarity(_scaled(a), _scaled(b)).float()
    rank_a, rank_b = (torch.from_numpy(rankdata(m.numpy(), axis=1)) for m in (a, b))
    if measure == "spearman":
        rank_a, rank_b = rank_a - rank_a.mean(1, keepdim=True), rank_b - rank_b.mean(1, keepdim=True)
        return F.cosine_similarity(rank_a, rank_b).float()
    top_a, top_b = _top(a), _top(b)
    union = (top_a | top_b).sum(1)
    return torch.where(union > 0, (top_a & top_b).sum(1) / union.clamp(min=1), 0.0).float()


def _top(maps: Tensor, share: float = 0.1) -> Tensor:
    """The `share` of pixels with the highest values, as a mask; none where the map is constant."""
    k = max(1, round(share * maps.shape[1]))
    mask = torch.zeros_like(maps, dtype=torch.bool)
    mask.scatter_(1, maps.topk(k, dim=1).indices, True)
    return mask & (maps.amax(1, keepdim=True) > maps.amin(1, keepdim=True))


def _scaled(maps: Tensor) -> Tensor:
    """Each map divided by its largest absolute value; zero maps stay zero."""
    largest = maps.flatten(1).abs().amax(1).clamp(min=1e-300)
    return maps / largest.view(-1, *[1] * (maps.dim() - 1))


def _ssim(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    if a.dim() != 3 or min(a.shape[1:]) < window:
        raise ValueError(f'measure "ssim" needs maps (N, H, W) of at least {window} × {window}, got {tuple(a.shape)}.')
    a, b = _scaled(a)[:, None], _scaled(b)[:, None]
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the scaled maps range over −1 to 1

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = (unbiased * (mean(x * x) - mean(x) ** 2) for x in (a, b))
    cov = unbiased * (mean(a * b) - mean_a * mean_b)
    similarity = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similarity.mean((1, 2, 3))


def _baseline(images: Tensor, baseline: Baseline) -> Tensor:
    """The baseline as a tensor that fits `images`."""
    if isinstance(baseline, str):
        if baseline not in ("mean", "black"):
            raise ValueError(_base.nearest("baseline", baseline, ("mean", "black")))
        dims = tuple(d for d in range(images.dim()) if d != 1)
        baseline = 0.0 if baseline == "mean" else images.amin(dims, keepdim=True)
    try:
        return torch.as_tensor(baseline, dtype=images.dtype, device=images.device).expand_as(images)
    except RuntimeError:
        shape = tuple(torch.as_tensor(baseline).shape)
        raise ValueError(f"baseline of shape {shape} does not fit inputs of shape {tuple(images.shape[1:])}.") from None


def _check(model: nn.Module, images: Tensor, targets: Tensor, method: str, options: dict[str, Any]) -> None:
    if method not in METHODS:
        raise ValueError(_base.nearest("method", method, METHODS))
    known = [p.name for p in inspect.signature(METHODS[method]).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ValueError(_base.nearest(f"option of {method}", option, known))
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() first, or its maps depend on the batch.")
    if images.dim() not in (2, 4) or not images.is_floating_point() or len(images) == 0:
        raise ValueError(
            "images must be normalised floats of shape (N, C, H, W), or a table (N, F), "
            f"got {images.dtype} {tuple(images.shape)}; a single image needs its batch dimension: image[None]."
        )
    if not torch.isfinite(images).all():
        raise ValueError("images hold NaN or infinity: every value must be finite.")
    if targets.dtype != torch.int64 or targets.shape != (len(images),):
        raise ValueError(
            f"targets must be int64 of shape ({len(images)},), got {targets.dtype} {tuple(targets.shape)}."
        )
    with torch.no_grad():
        classes = model(images[:1].to(_base.model_device(model))).shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ValueError(f"targets must lie in 0 to {classes - 1} ({classes} classes), got values from {low} to {high}.")
