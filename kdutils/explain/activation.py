"""Methods that look at the maps inside the network: where did the class find its evidence?"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import layers
from kdutils.explain._inputs import calls, logit, needs_images, what
from kdutils.explain.gradients import guided_backprop


def grad_cam(
    model: nn.Module, images: Tensor, targets: Tensor, *, layer: str | None = None, relu: bool = True
) -> Tensor:
    """The maps of a layer, summed with the mean gradient of each as its weight (Selvaraju et al. 2017).

    arXiv:1610.02391, eq. 1 and 2: ReLU(Σ_k a_k A_k), where a_k is the mean over all positions of
    ∂ logit / ∂ A_k; upsampled bilinearly to the images, (N, 1, H, W). `relu=False` keeps the negative values,
    which speak against the class. A map that is negative everywhere becomes zero by the ReLU: it is given as
    zeros, never NaN.

    `layer` is a dotted path; the default, :func:`grad_cam_layer`, is the last layer in forward order with maps
    (N, C, H, W) of more than one position, such as "stage3" of :func:`kdutils.models.resnet`. Images only.
    """
    needs_images("grad_cam", images)
    path = grad_cam_layer(model, images) if layer is None else layer
    with torch.enable_grad(), layers.read(model, [path]) as seen:
        score = logit(model, images if images.requires_grad else images.detach().requires_grad_(), targets).sum()
    maps = seen[path]
    if maps.dim() != 4 or math.prod(maps.shape[2:]) == 1:
        raise ValueError(f"layer {path!r} must give maps (N, C, H, W) of more than one position, got {what(maps)}.")
    slopes = torch.autograd.grad(score, maps, materialize_grads=True)[0]
    cam = (slopes.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True)
    cam = cam.relu() if relu else cam
    return F.interpolate(cam, images.shape[2:], mode="bilinear", align_corners=False)


def guided_grad_cam(model: nn.Module, images: Tensor, targets: Tensor, *, layer: str | None = None) -> Tensor:
    """:func:`guided_backprop` × :func:`grad_cam` (Selvaraju et al. 2017, section 3.2): fine lines in a coarse place.

    It inherits the fault of its first factor: what looks sharp is largely independent of the class and of the
    weights (Adebayo et al. 2018, arXiv:1810.03292).
    """
    return grad_cam(model, images, targets, layer=layer) * guided_backprop(model, images, targets)


def grad_cam_layer(model: nn.Module, images: Tensor) -> str:
    """The path of the layer that :func:`grad_cam` reads: the last one with maps of more than one position.

    Its maps, (N, C, h, w), tell how coarse a Grad-CAM is: it has h × w cells, whatever the size of the images.

    Args:
        model: in eval mode.
        images: normalised floats, (N, C, H, W); one of them is enough.

    Raises:
        ValueError: if the last layer with positions has no maps (N, C, H, W), as in a transformer.
    """
    found = [(path, output) for path, _, output in calls(model, images[:1]) if math.prod(output.shape[2:]) > 1]
    if not found or found[-1][1].dim() != 4:
        last = f"the last with positions, {found[-1][0]!r}, gives {what(found[-1][1])}" if found else "none at all"
        raise ValueError(
            f"grad_cam finds no layer with maps (N, C, H, W) before the logits ({last}): name one by layer=, "
            "or explain a transformer by attention_rollout."
        )
    return found[-1][0]
