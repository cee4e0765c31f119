"""Methods that look at the attention weights of a transformer with a class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils import _base, layers
from kdutils.explain._inputs import CHUNK, calls, check_inputs, logit, needs_images, rows


def attention_weights(model: nn.Module, images: Tensor) -> Tensor:
    """The attention weights of every block, as what its `nn.Softmax` layer gives.

    Args:
        model: in eval mode, with one `nn.Softmax` layer in each block that gives (N, heads, tokens, tokens),
            such as :func:`kdutils.models.vit`. In row i stand the weights with which token i looks at the others.
        images: normalised floats (N, C, H, W).

    Returns:
        (depth, N, heads, tokens, tokens), on the model's device, detached; every row sums to 1.

    Raises:
        ValueError: for a model in training mode or without attention weights to read, or inputs that are no
            finite floats.
    """
    check_inputs(model, images)
    device = _base.model_device(model)
    paths = _attention_layers(model, images[:1].to(device))
    parts = []
    with torch.no_grad(), layers.read(model, paths) as seen:
        for part in images.split(min(CHUNK, rows(images))):
            model(part.to(device))
            parts.append(torch.stack([seen[path] for path in paths]))
    return torch.cat(parts, dim=1)


def attention_rollout(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Through which patches the class token hears, all blocks multiplied (Abnar & Zuidema 2020, arXiv:2005.00928).

    Each block's weights are averaged over the heads, the identity is added for the shortcut, every row is divided
    by its sum, and the blocks are multiplied, the last one leftmost. The map is the class token's row over the
    patches, (N, 1, H, W): all pixels of a patch have its value (nothing finer was seen), never negative, at most 1.

    It looks at no logit: the map is the same whatever `targets` says. Token 0 must be the class token and the
    others the patches row by row.
    """
    needs_images("attention_rollout", images)
    weights = attention_weights(model, images).mean(2)
    weights = weights + torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    weights = weights / weights.sum(-1, keepdim=True)
    total = weights[0]
    for block in weights[1:]:
        total = block @ total
    return _as_maps(total, images)


def attention_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Attention × its positive gradient, rolled out (Chefer et al. 2021, arXiv:2103.15679, eq. 5 and 6).

    In each block Ā is the mean over the heads of ReLU(∂ logit / ∂ A · A); from R = I on, R ← R + Ā R, the first
    block first. The map is the class token's row of R over the patches, (N, 1, H, W): all pixels of a patch
    have its value, never negative, in units of the logit. Unlike the rollout it depends on the class. Token 0
    must be the class token and the others the patches row by row.
    """
    needs_images("attention_gradient", images)
    paths = _attention_layers(model, images[:1])
    with torch.enable_grad(), layers.read(model, paths) as seen:
        score = logit(model, images if images.requires_grad else images.detach().requires_grad_(), targets).sum()
    weights = [seen[path] for path in paths]
    slopes = torch.autograd.grad(score, weights, materialize_grads=True)
    total = torch.eye(weights[0].shape[-1], dtype=score.dtype, device=score.device).expand(len(images), -1, -1)
    for block, slope in zip(weights, slopes, strict=True):
        total = total + (block.detach() * slope).relu().mean(1) @ total
    return _as_maps(total, images)


def _attention_layers(model: nn.Module, image: Tensor) -> list[str]:
    """The paths of the `nn.Softmax` layers that give (N, heads, tokens, tokens), in forward order."""
    found = [
        path
        for path, layer, output in calls(model, image)
        if isinstance(layer, nn.Softmax) and output.dim() == 4 and output.shape[2] == output.shape[3] > 1
    ]
    if found:
        return found
    fused = [path for path, layer in model.named_modules() if isinstance(layer, nn.MultiheadAttention)]
    if fused:
        raise ValueError(
            f"the attention weights of layer {fused[0]!r} cannot be read: nn.MultiheadAttention computes them in one "
            "fused step; use a model whose weights come from an nn.Softmax layer, such as kd.models.vit."
        )
    raise ValueError(
        "the model has no attention weights to read: none of its nn.Softmax layers gives (N, heads, tokens, tokens)."
    )


def _as_maps(relevance: Tensor, images: Tensor) -> Tensor:
    """Row 0 of (N, tokens, tokens) without the class token itself, on the grid of patches and up to (N, 1, H, W)."""
    height, width = images.shape[2:]
    patches = relevance.shape[-1] - 1
    down = max(1, round((patches * height / width) ** 0.5))
    if down * (patches // down) != patches:
        raise ValueError(
            f"{patches + 1} tokens are not a class token and a grid of patches of images of {height} × {width}."
        )
    grid = relevance[:, 0, 1:].reshape(-1, 1, down, patches // down)
    return F.interpolate(grid, (height, width), mode="nearest-exact")
