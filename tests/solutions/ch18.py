"""Chapter 18: Your own images."""

import numpy as np
import torch


def exercise_1(train, test):
    # The bytes of an image as its name: a set then answers "is it in there?" at once. Each test image counts, even
    # if it is there twice; how often it is in train does not matter.
    known = {image.numpy().tobytes() for image in train}
    return sum(image.numpy().tobytes() in known for image in test)


def exercise_2(pixels):
    # A share of alpha is the colour, and the rest lets the white through. In floats: uint8 wraps around at 256.
    color, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    return (color * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def exercise_3(groups, share, seed):
    # Shuffle the groups by the seed and take one after the other into the test, if it still fits: a group that would
    # overshoot is skipped, so that one large group does not fill the test. Images are counted, not groups.
    names = sorted(set(groups))
    sizes = {name: groups.count(name) for name in names}
    chosen, taken = set(), 0
    for i in np.random.default_rng(seed).permutation(len(names)):
        if taken + sizes[names[i]] <= share * len(groups):
            chosen.add(names[i])
            taken += sizes[names[i]]
    return [group in chosen for group in groups]


# Plausible wrong answers, each with a word of the hint that it gets; the tests use them.


def _groups_counted(groups, share, seed):
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[i] for i in order[: round(share * len(names))]}
    return [group in chosen for group in groups]


def _no_seed(groups, share, seed):
    return exercise_3(groups, share, 0)


def _global(groups, share, seed):
    return exercise_3(groups, share, int(torch.randint(10**6, (1,))))


def _images(groups, share, seed):
    return list(np.random.default_rng(seed).random(len(groups)) < share)


def _pairs(train, test):
    return int((test[:, None] == train[None]).flatten(2).all(2).sum())


def _wrapped(pixels):
    return pixels[..., :3] * (pixels[..., 3:] // 255) + 255 * (1 - pixels[..., 3:] // 255)


WRONG = {
    1: [
        (_pairs, "pairs"),
        (lambda a, b: len({x.numpy().tobytes() for x in a} & {x.numpy().tobytes() for x in b}), "different pictures"),
        (lambda a, b: sum((a.float() - x.float()).abs().flatten(1).mean(1).min() < 1 for x in b), "One too many"),
        (lambda a, b: (b[:, None] == a[None]).flatten(2).all(2).any(1), "how many"),
        (lambda a, b: int((b[:, None] == a[None]).flatten(2).any(2).any(1).sum()), "some pixel"),
    ],
    2: [
        (lambda p: p[..., :3], "dropped the alpha"),
        (lambda p: (p[..., :3] * (p[..., 3:] / 255)).astype(np.uint8), "black below"),
        (lambda p: (p[..., :3] * (1 - p[..., 3:] / 255) + p[..., 3:]).astype(np.uint8), "wrong way round"),
        (lambda p: np.where(p[..., 3:] == 0, 255, p[..., :3]).astype(np.uint8), "half white"),
        (lambda p: p[..., :3] * (p[..., 3:] / 255) + 255 - p[..., 3:], "uint8"),
        (lambda p: p, "red, green and blue"),
    ],
    3: [
        (_images, "both sides"),
        (_groups_counted, "Count images"),
        (_no_seed, "Every seed"),
        (_global, "two different splits"),
        (lambda groups, share, seed: [False] * len(groups), "empty"),
    ],
}
