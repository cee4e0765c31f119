"""Methods that look at the gradient of a logit with respect to the input."""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import Any

import torch
from captum import attr
from torch import Tensor, nn

from kdutils import _base
from kdutils.explain._inputs import Baseline, baseline_for, gradient, logit, rows, what
from kdutils.explain.obstacles import nonlinearities, rescale_obstacles


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
    start = baseline_for(images, baseline).expand_as(images)
    batch = max(rows(images), len(images))  # all steps at once would be up to five times slower
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


def gradient_shap(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 32,
    background: Tensor | None = None,
    baseline: Baseline = "mean",
) -> Tensor:
    """(input − b) · gradient at a random point between b and the input, averaged over backgrounds b.

    Expected gradients (Erion et al. 2021, arXiv:1906.10670, eq. 3), which approximate the Shapley values of a
    model that is nearly linear between b and the input. `background` (M, ...) holds typical inputs, such as 100
    training images; each image meets every one equally often, as far as `samples` allows. Without it the one
    background is `baseline`, and this is integrated gradients with random steps. The map sums in expectation to
    logit(input) − mean logit(background).
    """
    _base.check_positive_int("samples", samples)
    if background is None:
        background = baseline_for(images, baseline)
    elif not (isinstance(baseline, str) and baseline == "mean"):
        raise ValueError("background and baseline exclude each other: give one of them.")
    elif not isinstance(background, Tensor) or background.shape[1:] != images.shape[1:] or not len(background):
        wanted = ", ".join(map(str, images.shape[1:]))
        raise ValueError(f"background must be a tensor of shape (M, {wanted}), got {what(background)}.")
    elif not torch.isfinite(background).all():
        raise ValueError("background holds NaN or infinity: every value must be finite.")
    background = background.detach().to(images)
    n, m = len(images), len(background)
    drawn = torch.rand(n, math.ceil(samples / m) * m, device=images.device).argsort(1)[:, :samples] % m
    where = (torch.arange(samples) + torch.rand(n, samples)).to(images) / samples  # one in each slice of the path
    total, together = torch.zeros_like(images), max(1, rows(images) // n)
    for start in range(0, samples, together):
        part = slice(start, start + together)
        begin = background[drawn[:, part]]
        way = images.detach()[:, None] - begin
        points = begin + where[:, part].reshape(n, -1, *[1] * (images.dim() - 1)) * way
        slopes = gradient(model, points.flatten(0, 1), targets.repeat_interleave(points.shape[1]))
        total += (way * slopes.view_as(points)).sum(1)
    return total / samples


def guided_backprop(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """∂ logit / ∂ input, where every ReLU on the way back passes positive gradients only (Springenberg et al. 2015).

    arXiv:1412.6806, section 3.4. It looks sharp and largely ignores the class and the weights (Adebayo et al. 2018,
    arXiv:1810.03292): keep it as a warning. It acts on `nn.ReLU` and `nn.ReLU6` layers; a model whose rectifiers are
    functions would silently get plain saliency, and is refused with the name of the function, as is one that
    has other activations only.
    """
    found = nonlinearities(model, images[:1])
    for each in found:
        if each.kind == "function" and each.name in ("relu", "relu6", "clamp", "clamp_min", "clip", "threshold"):
            raise ValueError(f"guided_backprop changes layers only: {each.sentence}.")
    others = [each.name for each in found if "norm" not in each.name.lower()]
    if others and not {"ReLU", "ReLU6"} & set(others):
        raise ValueError(
            f"guided_backprop changes nn.ReLU layers and the model has none ({others[0]} is called instead): "
            "its map would be plain saliency."
        )

    def positive(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        output.register_hook(lambda slope: slope.clamp(min=0))

    with contextlib.ExitStack() as hooks:
        for layer in model.modules():
            if isinstance(layer, (nn.ReLU, nn.ReLU6)):
                hooks.callback(layer.register_forward_hook(positive).remove)
        return gradient(model, images, targets)


def deep_lift(model: nn.Module, images: Tensor, targets: Tensor, *, baseline: Baseline = "mean") -> Tensor:
    """(input − baseline) · the slope between the two, activation by activation (Shrikumar et al. 2017).

    arXiv:1704.02685, the rescale rule: each nonlinearity has the slope Δoutput / Δinput in place of its derivative,
    so that the map sums to logit(input) − logit(baseline), in one forward and one backward pass of doubled
    size. Captum swaps the slope in where it sees a layer; what it cannot see or treats wrongly is refused with its
    name, see :func:`rescale_obstacles`. Whatever else may be wrong, maps whose sums miss by more than 1 % in total
    are refused as well.
    """
    start = baseline_for(images, baseline).expand_as(images)
    obstacles = rescale_obstacles(model, images)
    if obstacles:
        more = f" (and {len(obstacles) - 1} more, see rescale_obstacles)" if len(obstacles) > 1 else ""
        raise ValueError(f"deep_lift cannot explain this model exactly: {obstacles[0]}{more}.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting forward, backward hooks")
        found: Tensor = attr.DeepLift(model).attribute(images, start, target=targets)
    with torch.no_grad():
        here, there = logit(model, images, targets), logit(model, start, targets)
    rise = here - there
    missed = (found.detach().flatten(1).sum(1) - rise).abs().sum()
    if missed > 0.01 * rise.abs().sum() + 1e-5 * (here.abs() + there.abs()).sum():
        raise ValueError(
            f"deep_lift cannot explain this model exactly: its maps miss logit(input) − logit(baseline) by "
            f"{float(missed / rise.abs().sum()):.2g} of its size, so the model computes something that has no rule."
        )
    return found
