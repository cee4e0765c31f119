"""What a map is held against: networks drawn anew, a region that is known, and maps that need no network."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from kdutils import _base
from kdutils.explain._inputs import what


def cascade(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Copies of the model in which ever more layers are drawn anew, from the head down.

    The sanity check of Adebayo et al. 2018 (arXiv:1810.03292, section 3): a map that depends on what was learned must
    change. Layers are those that hold parameters themselves, in the reverse of the order in which the model
    registers them (in our networks and torchvision's that is the forward order). Each is drawn by its own
    `reset_parameters`, which sets a batch norm's running statistics to mean 0 and variance 1 too, for they
    belong to the weights that are gone: the last copy is a network that has never been trained. Parameters
    without a `reset_parameters`, such as a position embedding, have their values shuffled.

    Args:
        model: any network; it is left as it was.
        seed: of the new weights.

    Returns:
        an iterator of (the layer's dotted path, the copy in which it and all above it are new); each copy is
        made when it is asked for, keeps the model's mode and is yours. Parameters of the model itself go by
        their names, such as "cls, position".

    Raises:
        ValueError: for a model without parameters.
    """
    _base.check_seed(seed)
    paths = [path for path, layer in model.named_modules() if any(True for _ in layer.parameters(recurse=False))]
    if not paths:
        raise ValueError("the model has no parameters: there is nothing to draw anew.")
    return _cascade(copy.deepcopy(model), paths[::-1], seed)


def _cascade(model: nn.Module, paths: list[str], seed: int) -> Iterator[tuple[str, nn.Module]]:
    seeds = torch.randint(2**62, (len(paths),), generator=torch.Generator().manual_seed(seed)).tolist()
    for path, own_seed in zip(paths, seeds, strict=True):
        layer = model.get_submodule(path)
        with _base.seeded(own_seed), torch.no_grad():
            reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if reset is not None:
                reset()
            else:
                for parameter in layer.parameters(recurse=False):
                    shuffled = parameter.flatten()[torch.randperm(parameter.numel(), device=parameter.device)]
                    parameter.copy_(shuffled.view_as(parameter))
        yield path or ", ".join(name for name, _ in layer.named_parameters(recurse=False)), copy.deepcopy(model)


def mass_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of a map's positive values that lies inside the mask.

    Args:
        maps: signed floats (N, H, W).
        masks: bool (N, H, W), or (H, W) for all.

    Returns:
        float32 (N,), 0 to 1. A map without positive values gets the mask's share of the area, as a constant map
        does: it has said nothing, and that is what pointing anywhere would get.

    Raises:
        ValueError: for maps with NaN, or masks that are not bool or do not fit.
    """
    values, inside = _pair(maps, masks)
    positive = values.clamp(min=0)
    positive = torch.where(positive.any(1, keepdim=True), positive, 1.0)
    return ((positive * inside).sum(1) / positive.sum(1)).float()


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the highest pixel lies inside the mask (Zhang et al. 2016, arXiv:1608.00507).

    Args:
        maps: signed floats (N, H, W).
        masks: bool (N, H, W), or (H, W) for all.

    Returns:
        float32 (N,), 1 or 0; where several pixels share the highest value, the share of them that lies inside,
        so that a constant map gets the mask's share of the area.

    Raises:
        ValueError: as :func:`mass_inside`.
    """
    values, inside = _pair(maps, masks)
    highest = values == values.amax(1, keepdim=True)
    return ((highest & inside).sum(1) / highest.sum(1)).float()


def is_flat(maps: Tensor) -> Tensor:
    """Which maps rank nothing, since all their values are the same (a zero map, for one): bool (N,)."""
    values = _checked(maps)
    return values.amin(1) == values.amax(1)


def edges(images: Tensor) -> Tensor:
    """An edge detector as a map that knows no model: the Sobel magnitude, summed over channels.

    Args:
        images: floats (N, C, H, W).

    Returns:
        float32 (N, H, W) on the CPU, ≥ 0; slope in units of the image per pixel.
    """
    _check_images(images)
    values = images.detach().cpu().numpy()
    slopes = []
    for along, across in ((2, 3), (3, 2)):  # ndimage.sobel would smooth over images and channels too
        smooth = ndimage.correlate1d(values, [0.25, 0.5, 0.25], across, mode="nearest")
        slopes.append(ndimage.correlate1d(smooth, [-0.5, 0, 0.5], along, mode="nearest"))
    return torch.from_numpy(np.hypot(*slopes).sum(1)).float()


def centre_blob(images: Tensor) -> Tensor:
    """The prior that things are in the middle, as a map: one Gaussian, the same for every image.

    Args:
        images: floats (N, C, H, W); only their shape is used.

    Returns:
        float32 (N, H, W) on the CPU; σ is a quarter of the height and of the width.
    """
    _check_images(images)
    lines = [torch.exp(-8 * (torch.arange(n) - (n - 1) / 2).square() / n**2) for n in images.shape[2:]]
    return torch.outer(*lines).repeat(len(images), 1, 1)


def _pair(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps as float64 and masks as bool, both (N, pixels)."""
    values = _checked(maps)
    if maps.dim() != 3:
        raise ValueError(f"maps must have the shape (N, H, W), got {tuple(maps.shape)}.")
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.shape not in (maps.shape, maps.shape[1:]):
        wanted = f"{tuple(maps.shape)} or {tuple(maps.shape[1:])}"
        raise ValueError(f"masks must be bool of shape {wanted}, got {what(masks)}.")
    return values, masks.cpu().expand(maps.shape).flatten(1)


def _checked(maps: Tensor) -> Tensor:
    if not isinstance(maps, Tensor) or maps.dim() < 2 or maps.numel() == 0 or not maps.is_floating_point():
        raise ValueError(f"maps must be floats (N, H, W), got {what(maps)}.")
    values = maps.detach().cpu().double().flatten(1)
    if not torch.isfinite(values).all():
        raise ValueError("maps hold NaN or infinity: every value must be finite.")
    return values


def _check_images(images: Tensor) -> None:
    good = isinstance(images, Tensor) and images.dim() == 4 and images.numel() and images.is_floating_point()
    if not good:
        raise ValueError(f"images must be floats (N, C, H, W), got {what(images)}.")
