"""Checks of chapter 18."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def exercise_1(answer: Callable[[Tensor, Tensor], int]) -> str | None:
    """`leaked(train, test)`: how many test images are in the training set, as exact copies."""
    generator = torch.Generator().manual_seed(0)
    train = torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8, generator=generator)
    test = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8, generator=generator)
    train[1], train[2] = train[0], train[0]  # three times in train
    test[2], test[5], test[7] = train[0], train[3], train[3]  # once and twice in test
    test[8] = train[4].flip(-1)  # the same pixels, in other places: another image
    close = train[6].clone()
    close[0, 0, 0] ^= 1
    test[0] = close
    found = answer(train.clone(), test.clone())
    if isinstance(found, Tensor) and found.numel() > 1:
        return "One number is wanted: how many test images, not which ones."
    number = int(found)
    pairs = int((test[:, None] == train[None]).flatten(2).all(2).sum())
    if number == 3:
        return None
    if number == pairs:
        return "You counted pairs: a test image with two copies in train is still one leaked test image."
    if number == len({each.numpy().tobytes() for each in test} & {each.numpy().tobytes() for each in train}):
        return "You counted different pictures: two equal test images are both leaked, so both count."
    if number == 4:
        return "One too many: a mirror image, or an image that differs in one pixel, is no exact copy."
    if number == len(test):
        return "You counted images that share some pixel: all pixels must be equal."
    return "Count the test images for which some training image is equal in every pixel."


def exercise_2(answer: Callable[[Any], Any]) -> str | None:
    """`on_white(pixels)`: uint8 (H, W, 4) laid on white, uint8 (H, W, 3)."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    found = np.asarray(answer(pixels.copy()))
    if found.shape != (5, 7, 3):
        return f"The result must have the shape (5, 7, 3), red, green and blue; it has {found.shape}."
    color, alpha = pixels[..., :3].astype(float), pixels[..., 3:].astype(float) / 255
    right = color * alpha + 255 * (1 - alpha)
    if _near(found, right):
        return None if found.dtype == np.uint8 else f"The values are right; the type must be uint8, not {found.dtype}."
    for wrong, hint in (
        (color, "You dropped the alpha: that shows whatever colour was hidden below the transparent parts."),
        (color * alpha, "That is black below: what is transparent must let the white through, 255 · (1 − alpha)."),
        (color * (1 - alpha) + 255 * alpha, "It is the wrong way round: alpha 255 is opaque, so it shows the colour."),
        (color + 255 * (1 - alpha), "The colour itself must be weighted by alpha, too, or the sum leaves 0 to 255."),
        (np.where(alpha == 0, 255, color), "Half transparent is half white: do not only replace what is invisible."),
        (np.where(alpha < 1, 255, color), "Half transparent is half the colour: do not replace all of it by white."),
        (np.where(alpha < 0.5, 255, color), "Half transparent is half white: mix the two, no threshold."),
    ):
        if _near(found, wrong) or _near(found, wrong.astype(int) % 256):
            return hint
    if _near(found, (pixels[..., :3] * (pixels[..., 3:] // 255) + 255 * (1 - pixels[..., 3:] // 255)) % 256):
        return "alpha // 255 is 0 or 1: divide as floats."
    return "Mix: alpha/255 of the colour and 1 − alpha/255 of 255. Compute in floats: uint8 wraps around at 256."


def exercise_3(answer: Callable[[Sequence[str], float, int], Sequence[bool]]) -> str | None:
    """`split_groups(groups, share, seed)`: which images are the test's, so that no group is on both sides."""
    sizes = [1, 2, 3, 5, 8, 2, 1, 4, 6, 3, 2, 7, 1, 2, 3, 4, 5, 1, 20, 40]
    groups = [f"coat {g:02}" for g, n in enumerate(sizes) for _ in range(n)]
    order = np.random.default_rng(1).permutation(len(groups))
    groups = [groups[i] for i in order]
    drawn, shares = [], []
    for seed in range(12):
        found = [bool(each) for each in answer(list(groups), 0.3, seed)]
        if len(found) != len(groups):
            return f"One boolean for each of the {len(groups)} images is wanted, got {len(found)}."
        sides: dict[str, set[bool]] = {}
        for group, side in zip(groups, found, strict=True):
            sides.setdefault(group, set()).add(side)
        if any(len(each) > 1 for each in sides.values()):
            return "A group is on both sides: draw groups, not images."
        if not any(found) or all(found):
            return "One side is empty."
        if found != [bool(each) for each in answer(list(groups), 0.3, seed)]:
            return "The same seed gave two different splits: draw from a generator of your own, made from the seed."
        drawn.append(found)
        shares.append(sum(found) / len(found))
    if all(each == drawn[0] for each in drawn):
        return "Every seed gives the same split: shuffle the groups by the seed."
    if max(abs(share - 0.3) for share in shares) > 0.2:
        return (
            f"The test's share of the images went from {min(shares):.2f} to {max(shares):.2f}, and 0.30 ± 0.20 was "
            "wanted: one group holds a third of all images. Count images, not groups, and skip a group that is too big."
        )
    return None


def _near(found: Any, wanted: Any) -> bool:
    return bool(np.abs(np.asarray(found, dtype=float) - np.asarray(wanted, dtype=float)).max() <= 1)
