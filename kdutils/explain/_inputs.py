"""What the parts of `kdutils.explain` share: the check of what comes in, chunks and baselines."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdutils import _base

Baseline = Literal["mean", "black"] | float | Tensor
CHUNK = 128  # inputs explained at a time: bounds the memory, whatever N is


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


def check(model: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Refuse, in one sentence, what no method can explain."""
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
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != (len(images),):
        raise ValueError(f"targets must be int64 of shape ({len(images)},), got {what(targets)}.")
    with torch.no_grad():
        logits = model(images[:1].to(_base.model_device(model)))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        raise ValueError(f"the model must give logits of shape (N, K); for one input it gave {what(logits)}.")
    classes, low, high = logits.shape[1], int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ValueError(f"targets must lie in 0 to {classes - 1} ({classes} classes), got {low} to {high}.")


def what(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
