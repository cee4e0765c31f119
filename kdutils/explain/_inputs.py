"""What the parts of `kdutils.explain` share: the check of what comes in, chunks, baselines, one gradient."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdutils import _base

Baseline = Literal["mean", "black"] | float | Tensor
CHUNK = 128  # inputs explained at a time: bounds the memory, whatever N is
VALUES = 2**21  # and no more values than this at a time, which 13 colour images of 224 × 224 have


def rows(images: Tensor) -> int:
    """How many inputs like these one forward pass may hold: 256 small ones, 13 of 3 × 224 × 224."""
    return min(2 * CHUNK, max(1, VALUES // images[0].numel()))


def logit(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The logit of each input's target, (N,)."""
    logits: Tensor = model(inputs)
    return logits.gather(1, targets[:, None])[:, 0]


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """∂ logit of the target / ∂ input; leaves no gradient in the model."""
    with torch.enable_grad():
        inputs = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
        return torch.autograd.grad(logit(model, inputs, targets).sum(), inputs)[0]


def calls(model: nn.Module, inputs: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """What every layer below the model gives in one forward pass: (path, layer, output), in the order of finishing."""
    found: list[tuple[str, nn.Module, Tensor]] = []

    def keep(path: str) -> Any:
        def hook(layer: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.append((path, layer, output))

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for path, layer in model.named_modules():
            if path:
                hooks.callback(layer.register_forward_hook(keep(path)).remove)
        model(inputs)
    return found


def needs_images(method: str, images: Tensor) -> None:
    """Raise unless the inputs are images."""
    if images.dim() != 4:
        raise ValueError(f"{method} needs images (N, C, H, W), got inputs of shape {tuple(images.shape)}.")


def baseline_for(images: Tensor, baseline: Baseline) -> Tensor:
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


def check_inputs(model: nn.Module, images: Tensor) -> None:
    """Refuse a model in training mode and inputs that are no batch of finite floats."""
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() first, or its maps depend on the batch.")
    if not isinstance(images, Tensor) or images.dim() not in (2, 4) or not images.dtype.is_floating_point:
        raise ValueError(
            "images must be normalised floats of shape (N, C, H, W), or a table (N, F), "
            f"got {what(images)}; a single image needs its batch dimension: image[None]."
        )
    if images.numel() == 0:
        raise ValueError(f"images is empty, of shape {tuple(images.shape)}: at least one is wanted.")
    if not torch.isfinite(images).all():
        raise ValueError("images hold NaN or infinity: every value must be finite.")


def check(model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Refuse, in one sentence, what no method can explain."""
    check_inputs(model, images)
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != (len(images),):
        raise ValueError(f"targets must be int64 of shape ({len(images)},), got {what(targets)}.")
    with torch.no_grad():
        logits = model(images[:1].to(_base.model_device(model)))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        raise ValueError(f"the model must give logits of shape (N, K); for one input it gave {what(logits)}.")
    classes, low, high = logits.shape[1], int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ValueError(f"targets must lie in 0 to {classes - 1} ({classes} classes), got {low} to {high}.")


def check_maps(images: Tensor, maps: Tensor) -> None:
    """Refuse maps that are not one finite value per pixel of `images`, or per feature of a table."""
    wanted = (len(images), *images.shape[2:]) if images.dim() == 4 else tuple(images.shape)
    if not isinstance(maps, Tensor) or not maps.is_floating_point() or tuple(maps.shape) != wanted:
        raise ValueError(f"maps must be floats of shape {wanted}, one value per pixel, got {what(maps)}.")
    if not torch.isfinite(maps).all():
        raise ValueError("maps hold NaN or infinity: every value must be finite.")


def what(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
