"""A teacher's logits for several augmented views of every image, on disk: asked once, used by every student.

Beyer et al. 2022 (arXiv:2106.05237) find that a teacher should see the very crop that its student sees, in every epoch
another one. Where the teacher is large and the students many, a store of `views` crops per image gives them that
without asking it again: epoch e uses view e mod `views`. The images are not stored. A view is drawn again from its
seed, so that a store of half-precision logits takes 20 bytes per image and view for ten classes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kdutils import _base, _checkpoint, _processes
from kdutils.data import ImageSet, draw_shifts, move
from kdutils.metrics import predict

Precision = Literal["half", "single"]
DTYPES: dict[str, Any] = {"half": np.float16, "single": np.float32}
FACTS = "store.json"


@dataclass(frozen=True)
class LogitStore:
    """What :func:`fill` wrote; pass it to :func:`kdutils.train.distill` as `teacher`, with the same images.

    Attributes:
        folder: of the files, one per view, read through the memory map: what is not asked for stays on disk.
        facts: what it holds: "views" per image, drawn from "seed"; "size" images of hash "images"; "classes" K, of
            which the "top" largest logits are kept (None: all); "precision"; the hash of the "teacher".
    """

    folder: Path
    facts: dict[str, Any]

    @property
    def views(self) -> int:
        """How many there are of each image."""
        found: int = self.facts["views"]
        return found

    def check_images(self, train: ImageSet) -> None:
        """Raise unless `train` holds the images of the store, in their order."""
        if _images(train) != self.facts["images"]:
            raise ValueError(f"teacher, the store {self.folder}, is of other images than train, or of another order.")

    def draws(self, view: int, side: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """How a view turns each image of height and width `side`: mirrored (N,) bool, shifted (N, 2) in pixels."""
        size = self.facts["size"]
        generator = torch.Generator().manual_seed(self.facts["seed"] * 100_003 + view)
        return torch.rand(size, generator=generator) < 0.5, draw_shifts(size, side, generator)

    def logits(self, view: int, index: Tensor) -> Tensor:
        """The teacher's logits for some images of a view, float32 (n, K), on the CPU."""
        return self.reader(view)(index)

    def reader(self, view: int) -> Callable[[Tensor], Tensor]:
        """:meth:`logits` of one view, as a function of the images' positions, for which its files are opened once.

        Where only the largest logits are kept, the others share what is left of the probability equally.
        """
        values = self._map(view)
        classes = None if self.facts["top"] is None else self._map(view, "classes")

        def read(index: Tensor) -> Tensor:
            rows = index.cpu().numpy()
            kept = torch.from_numpy(values[rows].astype(np.float32))
            if classes is None:
                return kept
            names = torch.from_numpy(classes[rows].astype(np.int64))
            others = kept[:, -1:].expand(-1, self.facts["classes"]).clone()
            return others.scatter_(1, names, kept[:, :-1])

        return read

    def _map(self, view: int, kind: str = "logits") -> np.ndarray:
        path = _path(self.folder, view, kind)
        try:
            found = np.load(path, mmap_mode="r")
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(
                f"store {self.folder} is damaged or incomplete: {path.name} ({error}); fill it again."
            ) from None
        top, wide = self.facts["top"], 1 if kind == "logits" else 0
        wanted = (self.facts["size"], self.facts["classes"] if top is None else top + wide)
        if found.shape != wanted:
            raise ValueError(
                f"store {self.folder} is damaged: {path.name} has shape {found.shape}, not {wanted}; fill it again."
            )
        return found

    def _check(self, view: int) -> None:
        """Raise unless a view is there, and whole."""
        for kind in ("logits",) if self.facts["top"] is None else ("logits", "classes"):
            self._map(view, kind)

    def _has(self, view: int) -> bool:
        try:
            self._check(view)
        except ValueError:
            return False
        return True


def fill(
    folder: str | Path,
    teacher: nn.Module,
    train: ImageSet,
    *,
    views: int,
    seed: int = 0,
    precision: Precision = "half",
    top: int | None = None,
    part: tuple[int, int] | None = None,
    progress: bool = True,
) -> LogitStore:
    """Ask `teacher` about `views` augmented views of every image, and keep the answers in `folder`.

    A view is written as a whole or not at all, and one that is there, undamaged, is not made again: an interrupted call
    goes on where it stopped. Several processes share the work, those of `torchrun` by themselves and others by `part`;
    the views are then the same as those of one.

    Args:
        folder: of the store; made if it is not there.
        teacher: gives logits (N, K); asked in eval mode.
        train: the images, flipped and shifted as by ``augment=True`` of :func:`kdutils.train.fit`.
        views: of each image, at least 1.
        seed: of the views.
        precision: "half" keeps 11 bits of each logit; "single" all, for comparisons that have to be exact.
        top: keep the `top` largest logits and, for the others together, what is left of the probability.
        part: (which, of how many): this call makes the views v with v mod many = which, and waits for nobody.
        progress: show a bar with the time left.

    Raises:
        ValueError: for an argument out of range, or a folder that holds the store of another teacher, of other images
            or of other views.
    """
    folder = Path(folder)
    _base.check_positive_int("views", views)
    _base.check_seed(seed)
    if precision not in DTYPES:
        raise ValueError(_base.nearest("precision", precision, DTYPES))
    if not isinstance(train, ImageSet):
        raise ValueError(f"train must be an ImageSet, got {type(train).__name__}.")
    which, many = part if part is not None else _processes.join()
    if not 0 <= which < many:
        raise ValueError(f"part must be (which, of how many) with 0 ≤ which < many, got {part!r}.")
    classes = predict(teacher, train.normalise(train.images[:1])).shape[1]
    if top is not None and not (isinstance(top, int) and 1 <= top < classes):
        raise ValueError(f"top must lie in 1 to {classes - 1} for {classes} classes, got {top!r}.")
    facts = _identity(teacher, train) | {
        "views": views, "seed": seed, "precision": precision, "top": top, "classes": classes, "size": len(train),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / FACTS).exists():
        _check_same(folder, _read_facts(folder), facts)
    elif any(folder.glob("view-*.npy")):
        raise ValueError(f"store {folder} has lost its {FACTS}, so whose views it holds is not known: delete it.")
    else:
        _base.write_whole(folder / FACTS, (json.dumps(facts, indent=1) + "\n").encode())
    store = LogitStore(folder, facts)
    mine = [view for view in range(which, views, many) if not store._has(view)]
    with _base.progress(len(mine), "fill", progress) as bar:
        for view in mine:
            _write(store, view, _answers(teacher, train, *store.draws(view, _side(train))))
            bar.update()
    if part is None:
        _processes.wait(many)
    return store


def load(folder: str | Path, teacher: nn.Module, train: ImageSet) -> LogitStore:
    """The store in `folder`, if it is complete and holds this teacher's answers about these images.

    Raises:
        ValueError: if it does not, by what differs.
    """
    folder = Path(folder)
    if not (folder / FACTS).exists():
        raise ValueError(f"store {folder} does not exist: make it with kdutils.store.fill.")
    facts = _read_facts(folder)
    _check_same(folder, facts, _identity(teacher, train))
    store = LogitStore(folder, facts)
    for view in range(store.views):
        store._check(view)
    return store


def _identity(teacher: nn.Module, train: ImageSet) -> dict[str, str]:
    """What a store must not be mixed up with: how images are turned, and short hashes of them and of the teacher."""
    return {
        "augmentation": "flip and shift",
        "teacher": _checkpoint.digest(teacher.state_dict()),
        "images": _images(train),
    }


def _images(train: ImageSet) -> str:
    """A short hash of the images as a teacher sees them."""
    return _checkpoint.digest({"images": train.images, "stats": torch.tensor([train.mean, train.std])})


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / FACTS).read_text())
        return found
    except ValueError as error:
        raise ValueError(
            f"store {folder} is damaged: {FACTS} ({type(error).__name__}); delete the folder and fill it again."
        ) from None


def _answers(teacher: nn.Module, train: ImageSet, flip: Tensor, shift: Tensor) -> Tensor:
    """The teacher's logits for one view, float32 (N, K)."""
    found = []
    device = _base.model_device(teacher)
    for rows in torch.arange(len(train)).split(500):
        images = move(train.images[rows].to(device), flip[rows], shift[rows])
        found.append(predict(teacher, train.normalise(images)))
    return torch.cat(found).float().cpu()


def _side(train: ImageSet) -> tuple[int, int]:
    """Height and width."""
    height, width = train.images.shape[-2:]
    return height, width


def _write(store: LogitStore, view: int, logits: Tensor) -> None:
    top, classes = store.facts["top"], store.facts["classes"]
    if top is not None:
        values, names = logits.topk(top, dim=1)
        rest = logits.scatter(1, names, -torch.inf).logsumexp(1, keepdim=True) - np.log(classes - top)
        logits = torch.cat([values, rest], 1)
        _save(_path(store.folder, view, "classes"), names.numpy().astype(np.int16 if classes < 2**15 else np.int32))
    logits = logits - logits.mean(1, keepdim=True)  # which no softmax notices, and half precision does
    _save(_path(store.folder, view), logits.numpy().astype(DTYPES[store.facts["precision"]]))


def _save(path: Path, array: np.ndarray) -> None:
    packed = io.BytesIO()
    np.save(packed, array)
    _base.write_whole(path, packed.getvalue())


def _path(folder: Path, view: int, kind: str = "logits") -> Path:
    return folder / f"view-{view:03d}.{kind}.npy"


def _check_same(folder: Path, stored: dict[str, Any], facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if stored.get(name) != value:
            raise ValueError(
                f"store {folder} is of another {name}: {stored.get(name)!r}, now it is {value!r}; use another folder."
            )
