"""Attribution maps behind one verb, and how far two maps agree.

Some of the methods are Captum's (Kokhlikyan et al. 2020, arXiv:2009.07896), with their defaults, seed and
output fixed: one signed float32 map per image. A method takes and gives tensors of one shape on the model's
device, or (N, 1, H, W) where a pixel has one value for all its channels; :func:`attribute` checks, splits and
seeds, and is what one calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdutils import _base
from kdutils.explain._inputs import CHUNK, Baseline, baseline_for, check, rows
from kdutils.explain.activation import grad_cam, grad_cam_layer, guided_grad_cam
from kdutils.explain.agreement import MEASURES, Measure, map_agreement
from kdutils.explain.attention import attention_gradient, attention_rollout, attention_weights
from kdutils.explain.faithfulness import (
    area,
    completeness,
    deletion_curve,
    infidelity,
    insertion_curve,
    max_sensitivity,
    road,
)
from kdutils.explain.gradients import (
    deep_lift,
    gradient_shap,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smoothgrad,
)
from kdutils.explain.obstacles import rescale_obstacles
from kdutils.explain.perturbation import kernel_shap, lime, occlusion, segment_ids
from kdutils.explain.references import cascade, centre_blob, edges, is_flat, mass_inside, pointing_game

METHODS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        *(saliency, input_x_gradient, integrated_gradients, smoothgrad, gradient_shap, deep_lift, guided_backprop),
        *(grad_cam, guided_grad_cam, occlusion, kernel_shap, lime, attention_rollout, attention_gradient),
    )
}
__all__ = [
    "MEASURES",
    "METHODS",
    "Baseline",
    "Measure",
    "area",
    "attention_weights",
    "attribute",
    "cascade",
    "centre_blob",
    "completeness",
    "deletion_curve",
    "edges",
    "grad_cam_layer",
    "infidelity",
    "insertion_curve",
    "is_flat",
    "map_agreement",
    "mass_inside",
    "max_sensitivity",
    "pointing_game",
    "rescale_obstacles",
    "road",
    "segment_ids",
    *METHODS,
]


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
    if method not in METHODS:
        raise ValueError(_base.nearest("method", method, METHODS))
    known = [p.name for p in inspect.signature(METHODS[method]).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            if not known:
                raise ValueError(f"option {option!r} is unknown: {method} has none.")
            raise ValueError(_base.nearest(f"option of {method}", option, known))
    check(model, images, targets)
    device = _base.model_device(model)
    if "baseline" in options:  # settled on all images, so that it is the same in every chunk
        options["baseline"] = baseline_for(images, options["baseline"]).to(device)
    segments = options.get("segments")
    if segments is not None:
        ids = segment_ids(images, segments)
    maps = []
    chunk = min(CHUNK, rows(images))
    with _base.seeded(seed):
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            inputs = images[part].detach().to(device).clone().requires_grad_()
            if segments is not None:
                options["segments"] = ids[part] if len(ids) == len(images) else ids
            maps.append(METHODS[method](model, inputs, targets[part].to(device), **options).detach().float().cpu())
    signed = torch.cat(maps)
    if not torch.isfinite(signed).all():
        raise ValueError("the maps hold NaN or infinity: the model's logits or their gradients are not finite.")
    return signed.sum(1) if signed.dim() == 4 else signed
