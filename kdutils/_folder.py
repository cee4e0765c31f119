"""Reading a folder of images that other people made: what can be mended is mended, and all of it is told."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kdutils._base import progress

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
OTHER_TESTS = ("val", "valid", "validation")  # what may stand in for a folder "test"
TINY = 8  # pixels of the shorter side below which there is nothing to see
TEST_SHARE = 0.2  # of each class, where there is no test folder
UNBALANCED = 3  # times as many images in the largest class as in the smallest


@dataclass
class Part:
    """The images of one folder: what could be read, as uint8 (N, 3, size, size), and what was odd about it."""

    images: Tensor
    labels: Tensor
    odd: Counter[str] = field(default_factory=Counter)  # "grey", "transparent", "enlarged" -> how many images
    left_out: list[str] = field(default_factory=list)  # "cat/1.png (empty file)"
    ignored: Counter[str] = field(default_factory=Counter)  # ending -> how many files that are no images

    def keep(self, which: Tensor) -> None:
        """Drop the images where `which` (N,) is false."""
        self.images, self.labels = self.images[which], self.labels[which]


def read(root: Path, size: int, notes: list[str] | None, seed: int) -> tuple[Part, Part, tuple[str, ...]]:
    """(train, test, classes); see :func:`kdutils.data.from_folder`, which says what raises and what is mended."""
    mend = notes is not None
    said: list[str] = [] if notes is None else notes
    train_folder, test_folder = _parts(root, said, mend)
    classes = _classes(train_folder)
    if test_folder is not None and (odd := sorted(set(classes) ^ set(_classes(test_folder)))):
        raise ValueError(f"train and test must have the same classes; only one of them has: {', '.join(odd)}.")
    if len(classes) < 2:
        raise ValueError(f"path needs at least two classes, found {len(classes)} in {train_folder}.")
    train = _read_part(train_folder, classes, size, mend)
    if test_folder is not None:
        test = _read_part(test_folder, classes, size, mend)
        parts = {train_folder.name: train, test_folder.name: test}
    else:
        parts = {train_folder.name: train}
    if not mend:
        return train, test, classes
    for name, part in parts.items():
        said.extend(_said_of(name, part, size))
    if test_folder is None:
        test = _split_off(train, classes, seed)
        said.append(
            f"There is no test folder: {len(test.labels)} images, {100 * TEST_SHARE:.0f} % of each class, were drawn "
            f"at random with seed {seed} and serve as the test; {len(train.labels)} are left for training."
        )
    said.extend(_tell_copies(train, test))
    counts = _check_counts(train, test, classes)
    low, high = min(counts), max(counts)
    if high > UNBALANCED * low:
        named = [f"{n} ({classes[counts.index(n)]})" for n in (low, high)]
        said.append(
            f"The classes are unbalanced, from {named[0]} to {named[1]} training images: look at the balanced accuracy."
        )
    return train, test, classes


def _parts(root: Path, said: list[str], mend: bool) -> tuple[Path, Path | None]:
    """The folders of train and test; None for a test that is to be split off."""
    train, test = root / "train", root / "test"
    if mend and root.is_dir() and not test.is_dir():
        other = next((root / name for name in OTHER_TESTS if (root / name).is_dir()), None)
        if other is not None and train.is_dir():
            said.append(f"There is no folder test: the images in {other.name} are the test.")
            return train, other
        if train.is_dir():
            return train, None
        if other is None:
            said.append("There are no folders train and test: every folder is taken as a class.")
            return root, None
    if not root.is_dir():
        what = "is a file, and a folder is wanted" if root.exists() else "does not exist"
        raise ValueError(f"path {root} {what}.")
    for folder in (train, test):
        if not folder.is_dir():
            hint = ""
            if folder == test:
                hint = "; with notes=[], a list of your own, the folder val, or else a fifth of train, is the test"
            raise ValueError(
                f"path needs the folders train and test with one folder per class: {folder} is missing{hint}."
            )
    for name in OTHER_TESTS:
        if mend and (root / name).is_dir():
            said.append(f"The folder {name} is not used.")
    return train, test


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _read_part(folder: Path, classes: tuple[str, ...], size: int, mend: bool) -> Part:
    files, labels, ignored = [], [], Counter[str]()
    for label, name in enumerate(classes):
        listed = sorted(p for p in (folder / name).iterdir() if p.is_file() and not p.name.startswith("."))
        good = [p for p in listed if p.suffix.lower() in ENDINGS]
        ignored.update(p.suffix.lower() or p.name for p in listed if p not in good)
        if not good:
            raise ValueError(f"{folder / name} holds no image ({', '.join(sorted(ENDINGS))}).")
        files += good
        labels += [label] * len(good)
    part = Part(torch.empty(len(files), 3, size, size, dtype=torch.uint8), torch.tensor(labels), ignored=ignored)
    readable = torch.ones(len(files), dtype=torch.bool)
    with progress(len(files), f"reading {folder.name}") as bar:
        for i, file in enumerate(files):
            try:
                part.images[i], odd = read_image(file, size, TINY if mend else 1)
                part.odd.update(odd)
            except Exception as error:
                if not mend:
                    raise ValueError(f"{file} could not be read as an image ({type(error).__name__}).") from error
                readable[i] = False
                part.left_out.append(f"{file.relative_to(folder)} ({_reason(file, error)})")
            bar.update()
    part.keep(readable)
    return part


def read_image(file: Path, size: int, smallest: int = 1) -> tuple[Tensor, list[str]]:
    """One image as uint8 (3, size, size), with what was odd about it.

    Upright, in RGB, on white where it is transparent, 16 bits brought down to 8, resized so that its shorter side is
    `size`, and cropped around the centre. Of an animation, the first frame.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but Pillow reads it
        with Image.open(file) as opened:
            width, height = opened.size
            if min(width, height) < smallest:
                raise TooSmall(f"{width} × {height} pixels")
            odd = ["enlarged"] if min(width, height) < size else []
            opened.draft(None, (2 * size, 2 * size))  # type: ignore[arg-type]  # a JPEG is decoded smaller, if it can be
            upright = ImageOps.exif_transpose(opened)
            if upright.mode in ("1", "L", "LA", "La", "I") or upright.mode.startswith("I;16"):
                odd.append("grey")
            picture, seen_through = _rgb(upright)
            if seen_through:
                odd.append("transparent")
            fitted = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1), odd


class TooSmall(ValueError):
    """An image with nothing to see."""


def _rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image in RGB, and whether any of it was transparent.

    A plain conversion would show whatever colour a program left below the transparent parts, and would cut 16 bits
    off at 255.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB"), False
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        full = image.convert("RGBA")
        lowest = full.getchannel("A").getextrema()[0]
        return Image.alpha_composite(Image.new("RGBA", full.size, "white"), full).convert("RGB"), lowest != 255
    return image.convert("RGB"), False


def _reason(file: Path, error: Exception) -> str:
    if isinstance(error, TooSmall):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return "gigantic, more than 178 million pixels"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return "empty file" if not file.stat().st_size else "broken, or no image"


def _said_of(name: str, part: Part, size: int) -> list[str]:
    total, said = len(part.labels) + len(part.left_out), []
    if part.left_out:
        rest = f" and {len(part.left_out) - 5} more" if len(part.left_out) > 5 else ""
        listed = ", ".join(part.left_out[:5]) + rest
        said.append(f"{len(part.left_out)} of {total} images in {name} were left out: {listed}.")
    told = {
        "grey": "are grey and were taken as RGB",
        "transparent": "are partly transparent and were laid on white",
        "enlarged": f"are smaller than {size} pixels and were enlarged",
    }
    said += [f"{part.odd[kind]} of {total} images in {name} {what}." for kind, what in told.items() if part.odd[kind]]
    if part.ignored:
        listed = ", ".join(f"{n} {ending}" for ending, n in sorted(part.ignored.items()))
        said.append(f"Files in {name} that are not read, because of their ending: {listed}.")
    return said


def _split_off(train: Part, classes: tuple[str, ...], seed: int) -> Part:
    """Take the test's share of every class out of `train`."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(train.labels), dtype=torch.bool)
    for label, name in enumerate(classes):
        places = (train.labels == label).nonzero()[:, 0]
        if len(places) < 2:
            raise ValueError(
                f"class {name} has {len(places)} readable image(s): at least two are wanted, one of them for the test."
            )
        order = torch.randperm(len(places), generator=generator)
        chosen[places[order[: max(1, round(TEST_SHARE * len(places)))]]] = True
    test = Part(train.images[chosen], train.labels[chosen])
    train.keep(~chosen)
    return test


def _tell_copies(train: Part, test: Part) -> list[str]:
    """Take out of `train` what is in `test` too. Only exact copies, pixel by pixel after the resizing, are found."""
    hashes = [[hashlib.blake2b(image.numpy().tobytes()).digest() for image in part.images] for part in (train, test)]
    labels: dict[bytes, set[int]] = {}
    for part, found in zip((train, test), hashes, strict=True):
        for each, label in zip(found, part.labels.tolist(), strict=True):
            labels.setdefault(each, set()).add(label)
    said = []
    if twofold := sum(len(each) > 1 for each in labels.values()):
        said.append(f"{twofold} image(s) stand in more than one class, as exact copies: check their labels.")
    tested = set(hashes[1])
    fresh = torch.tensor([each not in tested for each in hashes[0]])
    if not fresh.all():
        common = len(tested & set(hashes[0]))
        said.append(
            f"{common} test image(s) are in train too, as exact copies: {int((~fresh).sum())} image(s) were taken out "
            "of the training, so that the test stays one."
        )
        train.keep(fresh)
    return said


def _check_counts(train: Part, test: Part, classes: tuple[str, ...]) -> list[int]:
    """The number of training images of each class, all above 0."""
    for name, part in (("train", train), ("test", test)):
        for label, n in enumerate(part.labels.bincount(minlength=len(classes)).tolist()):
            if n == 0:
                raise ValueError(f"class {classes[label]} has no readable image of its own in {name}.")
    found: list[int] = train.labels.bincount(minlength=len(classes)).tolist()
    return found
