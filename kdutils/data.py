"""Image data as one tensor: loading, splitting and batching."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdutils._base import cache_folder, check_positive_int, check_seed, nearest

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

# Mean and standard deviation of the training pixels, per channel, after division by 255.
_FASHION_STATS = ((0.2860,), (0.3530,))
_CIFAR_STATS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FASHION_FILES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images that live in two tensors.

    Attributes:
        images: uint8, (N, C, H, W), values 0 to 255; batches are made fastest if they are channels_last in memory.
        labels: int64, (N,), values 0 to K − 1.
        classes: the K class names, in label order.
        mean: per channel, of pixels in [0, 1]; what :meth:`normalise` subtracts.
        std: per channel, of pixels in [0, 1]; what :meth:`normalise` divides by.

    Raises:
        ValueError: if a shape, a type or a label does not fit the others, or the set is empty.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, value in (("images", self.images), ("labels", self.labels)):
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} must be a tensor, got {type(value).__name__}.")
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                f"images must be uint8 of shape (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}."
            )
        if len(self.images) == 0:
            raise ValueError("images is empty: at least one image is wanted.")
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.images),):
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), "
                f"got {self.labels.dtype} {tuple(self.labels.shape)}."
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"labels must lie in 0 to {len(self.classes) - 1} ({len(self.classes)} classes), got {low} to {high}."
            )
        channels = self.images.shape[1]
        if len(self.mean) != channels or len(self.std) != channels or not min(self.std) > 0:
            raise ValueError(
                f"mean and std need one value for each of the {channels} channels, and std values above 0, "
                f"got {self.mean!r} and {self.std!r}."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> ImageSet:
        """A smaller set: by position, slice or list of positions, or by a tensor of positions or booleans."""
        if isinstance(index, int):
            index = [index]
        return replace(self, images=self.images[index], labels=self.labels[index])

    def subset(self, n: int, seed: int = 0) -> ImageSet:
        """`n` images drawn at random without replacement; the same for the same seed.

        Raises:
            ValueError: if `n` is not between 1 and `len(self)`.
        """
        return self[self._shuffled(n, seed)[:n]]

    def split(self, n: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Draw `n` images at random and return (those, the others): a held-out part and the rest.

        Raises:
            ValueError: if `n` is not between 1 and `len(self) - 1`.
        """
        if n == len(self):
            raise ValueError(f"n must leave at least one image over, got {n} of {len(self)}.")
        order = self._shuffled(n, seed)
        return self[order[:n]], self[order[n:]]

    def _shuffled(self, n: int, seed: int, name: str = "n") -> Tensor:
        check_seed(seed)
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(self):
            raise ValueError(f"{name} must be an integer from 1 to {len(self)} (the size of the set), got {n!r:.60}.")
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into the float32 that models take: (x/255 − mean)/std."""
        found = images.float()
        if found is images:  # which is not ours to change
            found = images.clone()
        mean, std = (  # as large as an image and in its memory layout: so nothing is broadcast within an image
            torch.empty_like(found[:1]).copy_(torch.tensor(each).view(1, -1, 1, 1)) for each in (self.mean, self.std)
        )
        return found.div_(255).sub_(mean).div_(std)

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`, as float32 in [0, 1], for showing an image."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return (images * std + mean).clamp(0, 1)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(normalised float32 images (N, C, H, W), int64 labels (N,)), all at once."""
        return self.normalise(self.images), self.labels

    def loader(
        self, batch_size: int = 128, *, shuffle: bool = False, seed: int = 0, workers: int = 0
    ) -> DataLoader[tuple[Tensor, ...]]:
        """A `DataLoader` of (normalised images, labels) whose order depends on `seed` alone."""
        check_positive_int("batch_size", batch_size)
        check_seed(seed)
        return DataLoader(
            TensorDataset(*self.tensors()),
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=workers,
            generator=torch.Generator().manual_seed(seed),
        )


def flip_and_shift(images: Tensor, flip: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mirror the images where `flip` (N,) is true and, with a generator, shift each at random.

    The shift is at most an eighth of the height and width in each direction; what comes in from
    outside is 0, which is black. One gather does both, for the whole batch (N, C, H, W).
    """
    n, _, height, width = images.shape
    return move(images, flip, draw_shifts(n, (height, width), generator) if generator is not None else None)


def draw_shifts(n: int, side: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random shifts (N, 2) of images of height and width `side`, in pixels: up to an eighth of it, each way."""
    return torch.cat([torch.randint(2 * (s // 8) + 1, (n, 1), generator=generator) - s // 8 for s in side], dim=1)


def move(images: Tensor, flip: Tensor, shift: Tensor | None) -> Tensor:
    """Mirror the images (N, C, H, W) where `flip` (N,) is true, and shift each by `shift` (N, 2), see above."""
    n, channels, height, width = images.shape
    seen = images.permute(0, 2, 3, 1)
    if shift is not None:
        down, right = height // 8, width // 8
        row = (width + 2 * right) * channels  # of an image with a black frame, its pixels one after the other
        framed = seen.new_zeros(n, height + 2 * down, row // channels, channels)
        framed[:, down : down + height, right : right + width] = seen
        # Whole rows are copied, each from where it starts: as fast as memory, where a gather of pixels is not.
        image = torch.arange(n)[:, None] * (height + 2 * down)
        lines = image + shift[:, :1].cpu() + down + torch.arange(height)
        starts = (lines * row + (shift[:, 1:].cpu() + right) * channels).flatten().to(images.device)
        windows = framed.flatten().unfold(0, width * channels, 1)  # a view that begins at every byte
        seen = windows.index_select(0, starts).view(n, height, width, channels)
    else:
        seen = seen.clone(memory_format=torch.contiguous_format)
    mirrored = flip.cpu().nonzero()[:, 0].to(images.device)
    seen.index_copy_(0, mirrored, seen.index_select(0, mirrored).flip(2))
    return seen.permute(0, 3, 1, 2)


def load(
    name: str, train_size: int | None = None, seed: int = 0, root: str | Path | None = None
) -> tuple[ImageSet, ImageSet]:
    """Load a data set as (train, test).

    Args:
        name: "fashion_mnist" (inside the package, no download; Xiao et al. 2017, arXiv:1708.07747),
            "cifar10" or "cifar100" (Krizhevsky 2009; through torchvision, into `root`).
        train_size: keep this many training images, drawn at random with `seed`; all of them if None.
        seed: of the draw.
        root: folder of the CIFAR files; by default `$KDUTILS_HOME`, else `~/.cache/kdutils`.

    Raises:
        ValueError: for an unknown name, a `train_size` that does not fit, or a file whose hash is wrong.
    """
    if name == "fashion_mnist":
        train, test = _fashion_mnist()
    elif name in _CIFAR_STATS:
        train, test = _cifar(name, Path(root) if root is not None else cache_folder())
    else:
        raise ValueError(nearest("data set", name, ["fashion_mnist", *_CIFAR_STATS]))
    if train_size is not None:
        train = train[train._shuffled(train_size, seed, "train_size")[:train_size]]
    return train, test


def _fashion_mnist() -> tuple[ImageSet, ImageSet]:
    folder = Path(__file__).parent / "fashion_mnist"
    arrays = []
    for name, sha256 in _FASHION_FILES.items():
        packed = (folder / name).read_bytes()
        if hashlib.sha256(packed).hexdigest() != sha256:
            raise ValueError(f"{folder / name} has a wrong sha256: the file is damaged, install kdutils again.")
        header = 16 if "images" in name else 8  # the IDX format: magic number, then the sizes
        arrays.append(torch.frombuffer(bytearray(gzip.decompress(packed))[header:], dtype=torch.uint8))
    sets = [
        ImageSet(images.view(-1, 1, 28, 28), labels.long(), FASHION_CLASSES, *_FASHION_STATS)
        for images, labels in (arrays[:2], arrays[2:])
    ]
    return sets[0], sets[1]


def _cifar(name: str, root: Path) -> tuple[ImageSet, ImageSet]:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        parts = [kind(str(root), train=train, download=False) for train in (True, False)]
    except RuntimeError:  # not there, or not intact: torchvision checks the md5 of every file
        print(f"Downloading {name} (about 170 MB) to {root}; its host can be slow: from one minute to an hour.")
        made = [folder for folder in (root, *root.parents) if not folder.exists()]
        root.mkdir(parents=True, exist_ok=True)
        try:
            # Not by download=True, which takes a folder for complete that was cut off before its last, small file.
            datasets.utils.download_and_extract_archive(kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5)
            parts = [kind(str(root), train=train, download=False) for train in (True, False)]
        except BaseException as error:  # also when it is interrupted: a partial or damaged archive is not kept
            (root / kind.filename).unlink(missing_ok=True)
            for folder in made:
                if not any(folder.iterdir()):
                    folder.rmdir()
            if not isinstance(error, Exception):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
            raise ValueError(
                f"{name} could not be downloaded to {root} ({reason:.80}): nothing was kept, so try again, "
                f"or put {kind.filename} there yourself."
            ) from error
    sets = []
    for part in parts:
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2)  # in memory channels last, as they come
        sets.append(ImageSet(images, torch.tensor(part.targets), tuple(part.classes), *_CIFAR_STATS[name]))
    return sets[0], sets[1]


def from_folder(
    path: str | Path,
    size: int = 224,
    *,
    notes: list[str] | None = None,
    seed: int = 0,
    mean: Sequence[float] = _IMAGENET_STATS[0],
    std: Sequence[float] = _IMAGENET_STATS[1],
) -> tuple[ImageSet, ImageSet]:
    """Read `path/train/<class>/*` and `path/test/<class>/*` into two sets of RGB images.

    Each image is turned upright, laid on white where it is transparent, resized so that its shorter side is `size`,
    then cropped around the centre. All are held in memory, 3 · size² bytes each.

    Args:
        path: the folder.
        size: height and width of every image.
        notes: a list of your own, to which one sentence is added for whatever is odd. What can be mended then is:
            images that are broken, empty, gigantic or tiny (below 8 pixels) are left out; a missing test is `val`,
            or a fifth of each class; a training image that is in the test too is taken out of the training.
            Without it nothing is mended, and the same raises or is let pass.
        seed: of the draw of a missing test.
        mean: of red, green and blue, of pixels in [0, 1]; what :meth:`ImageSet.normalise` subtracts. It must be what
            the teacher was trained with, as nothing says so if it is not: the teacher is only less often right. The
            default is ImageNet's, which all networks of :func:`kdutils.backbones.load` expect.
        std: the same, of the standard deviations.

    Raises:
        ValueError: for a missing folder, different classes in the two parts, fewer than two classes,
            an empty class, a file that is not an image (its path is named), or statistics that are not three numbers
            of that range.
    """
    from kdutils import _folder

    check_positive_int("size", size)
    check_seed(seed)
    stats = _channels("mean", mean), _channels("std", std)
    train, test, classes = _folder.read(Path(path), size, notes, seed)
    sets = [ImageSet(part.images, part.labels, classes, *stats) for part in (train, test)]
    return sets[0], sets[1]


def _channels(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """A statistic of RGB images, once it is sure that it is one of pixels in [0, 1]; so std is above 0."""
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(0 <= value <= 1 and (value > 0 or name == "mean") for value in found):
        wanted = "from 0 to 1" if name == "mean" else "above 0, up to 1"
        raise ValueError(
            f"{name} must be three numbers {wanted}, one for each of red, green and blue, of pixels divided by 255; "
            f"got {values!r:.60}."
        )
    return found
