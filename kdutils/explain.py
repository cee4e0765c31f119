"""Attribution maps behind one verb, and how far two maps agree.

Most of the methods are Captum's (Kokhlikyan et al. 2020, arXiv:2009.07896); this module fixes their
defaults, their seed and their output: one signed float32 map per image. A method takes and gives tensors
of one shape on the model's device; :func:`attribute` checks, splits and seeds, and is what one calls.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from captum import attr
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import _base

Measure = Literal["cosine", "spearman", "iou", "ssim"]
Baseline = Literal["mean", "black"] | float | Tensor
MEASURES: tuple[Measure, ...] = ("cosine", "spearman", "iou", "ssim")
CHUNK = 128  # inputs explained at a time: bounds the memory, whatever N is


def saliency(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """∂ logit / ∂ input, with its sign (Simonyan et al. 2014, arXiv:1312.6034)."""
    found: Tensor = attr.Saliency(model).attribute(images, target=targets, abs=False)
    return found


def input_x_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """input · ∂ logit / ∂ input (Shrikumar et al. 2016, arXiv:1605.01713)."""
    found: Tensor = attr.InputXGradient(model).attribute(images, target=targets)
    return found


def integrated_gradients(
    model: nn.Module, images: Tensor, targets: Tensor, *, steps: int = 32, baseline: Baseline = "mean"
) -> Tensor:
    """(input − baseline) · mean gradient on the straight path from baseline to input.

    Sundararajan et al. 2017 (arXiv:1703.01365), eq. 1, by Gauss–Legendre quadrature with `steps` points.
    The map sums to logit(input) − logit(baseline), up to the error of the quadrature: on ReLU networks
    about 1 % at 32 steps, and more where that difference is small.
    """
    _base.check_positive_int("steps", steps)
    start = _baseline(images, baseline).expand_as(images)
    batch = max(2 * CHUNK, len(images))  # all steps at once would be up to five times slower
    found: Tensor = attr.IntegratedGradients(model).attribute(
        images, start, target=targets, n_steps=steps, internal_batch_size=batch
    )
    return found


def smoothgrad(model: nn.Module, images: Tensor, targets: Tensor, *, samples: int = 16, noise: float = 0.15) -> Tensor:
    """The mean :func:`saliency` of `samples` noisy copies (Smilkov et al. 2017, arXiv:1706.03825).

    `noise` is the standard deviation of the Gaussian noise as a share of the range (maximum − minimum) of
    each image (the paper: 0.1 to 0.2).
    """
    _base.check_positive_int("samples", samples)
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < math.inf:
        raise ValueError(f"noise must be a positive finite share of each image's range, got {noise!r}.")
    dims = tuple(range(1, images.dim()))
    spread = noise * (images.detach().amax(dims, keepdim=True) - images.detach().amin(dims, keepdim=True))
    total = torch.zeros_like(images)
    for _ in range(samples):
        noisy = images.detach() + spread * torch.randn_like(images)
        total += saliency(model, noisy.requires_grad_(), targets)
    return total / samples


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
    if images.dim() != 4:
        raise ValueError(f"occlusion needs images (N, C, H, W), got inputs of shape {tuple(images.shape)}.")
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
        baselines=_baseline(images, baseline).expand_as(images),
        target=targets,
        perturbations_per_eval=8,
    )
    return found / channels


METHODS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (saliency, input_x_gradient, integrated_gradients, smoothgrad, occlusion)
}


def attribute(model: nn.Module, images: Tensor, targets: Tensor, method: str, seed: int = 0, **options: Any) -> Tensor:
    """Explain one logit per input.

    The model is left as it was: no mode, parameter, buffer or stored gradient changes.

    Args:
        model: in eval mode; takes `images` and gives logits (N, K).
        images: normalised floats, (N, C, H, W); or a table (N, F).
        targets: int64, (N,), the class whose logit is explained, chosen by you: the label, or
            `model(images).argmax(1)`.
        method: a name in :data:`METHODS`; its docstring says what the map means.
        seed: of methods that draw noise (per 128 inputs). The global random state is left as it was.
        options: of the method, such as `steps=32` or `baseline="black"`. The default baseline is zero in
            normalised space, that is, the mean image; "black" is the darkest value of each channel
            among `images`; a number or a tensor that broadcasts to one image is taken as it is.

    Returns:
        float32 on the CPU, signed, summed over channels: (N, H, W); for tables (N, F). The unit is that of
        the logit, for "saliency" and "smoothgrad" logit per unit of normalised input.

    Raises:
        ValueError: for an unknown method or option, an option out of range, a model in training mode or
            without logits (N, K), inputs without a batch dimension or with NaN, targets that do not fit,
            or maps that come out with NaN or infinity.
    """
    _check(model, images, targets, method, options)
    device = _base.model_device(model)
    if "baseline" in options:  # settled on all images, so that it is the same in every chunk
        options["baseline"] = _baseline(images, options["baseline"]).to(device)
    maps = []
    with _base.seeded(seed):
        for start in range(0, len(images), CHUNK):
            inputs = images[start : start + CHUNK].detach().to(device).clone().requires_grad_()
            chosen = targets[start : start + CHUNK].to(device)
            maps.append(METHODS[method](model, inputs, chosen, **options).detach().float().cpu())
    signed = torch.cat(maps)
    if not torch.isfinite(signed).all():
        raise ValueError("the maps hold NaN or infinity: the model's logits or their gradients are not finite.")
    return signed.sum(1) if signed.dim() == 4 else signed


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


def _baseline(images: Tensor, baseline: Baseline) -> Tensor:
    """The baseline as one input (1, ...) that fits `images` (N, ...)."""
    if isinstance(baseline, str):
        if baseline not in ("mean", "black"):
            raise ValueError(_base.nearest("baseline", baseline, ("mean", "black")))
        dims = tuple(d for d in range(images.dim()) if d != 1)
        baseline = 0.0 if baseline == "mean" else images.detach().amin(dims, keepdim=True)
    one = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    if not torch.isfinite(one).all():
        raise ValueError("baseline holds NaN or infinity: every value must be finite.")
    try:
        return one.expand(1, *images.shape[1:])
    except RuntimeError:
        wanted = tuple(images.shape[1:])
        raise ValueError(f"baseline of shape {tuple(one.shape)} does not fit one input of shape {wanted}.") from None


def _check(model: nn.Module, images: Tensor, targets: Tensor, method: str, options: dict[str, Any]) -> None:
    if method not in METHODS:
        raise ValueError(_base.nearest("method", method, METHODS))
    known = [p.name for p in inspect.signature(METHODS[method]).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            if not known:
                raise ValueError(f"option {option!r} is unknown: {method} has none.")
            raise ValueError(_base.nearest(f"option of {method}", option, known))
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() first, or its maps depend on the batch.")
    if not isinstance(images, Tensor) or images.dim() not in (2, 4) or not images.dtype.is_floating_point:
        raise ValueError(
            "images must be normalised floats of shape (N, C, H, W), or a table (N, F), "
            f"got {_what(images)}; a single image needs its batch dimension: image[None]."
        )
    if images.numel() == 0:
        raise ValueError(f"images is empty, of shape {tuple(images.shape)}: at least one is wanted.")
    if not torch.isfinite(images).all():
        raise ValueError("images hold NaN or infinity: every value must be finite.")
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != (len(images),):
        raise ValueError(f"targets must be int64 of shape ({len(images)},), got {_what(targets)}.")
    with torch.no_grad():
        logits = model(images[:1].to(_base.model_device(model)))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        raise ValueError(f"the model must give logits of shape (N, K); for one input it gave {_what(logits)}.")
    classes, low, high = logits.shape[1], int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ValueError(f"targets must lie in 0 to {classes - 1} ({classes} classes), got {low} to {high}.")


def _what(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
