"""Methods that change the input and watch the logit."""

from __future__ import annotations

from captum import attr
from torch import Tensor, nn

from kdutils import _base
from kdutils.explain._inputs import Baseline, baseline_for


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
        baselines=baseline_for(images, baseline).expand_as(images),
        target=targets,
        perturbations_per_eval=8,
    )
    return found / channels
