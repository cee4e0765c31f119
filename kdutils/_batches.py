"""What one training step is fed with: shuffled, augmented, normalised batches and what the teachers said of them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.profiler import record_function

from kdutils.data import ImageSet, draw_shifts, move
from kdutils.layers import Outputs
from kdutils.store import LogitStore

Batches = Iterable[tuple[Tensor, Tensor]]
Augment = bool | Literal["flip"]
Mix = Literal["mixup", "cutmix"]


@dataclass
class Batch:
    """One step's data.

    Attributes:
        inputs: (N, ...).
        labels: int64, (N,); of mixed images the larger part's.
        targets: what cross-entropy takes: the labels, or (N, K) probabilities for mixed images.
        teachers: for each teacher its outputs for these images, once they are known.
        soft: the average of the teachers' logits (N, K), once it is known.
        first: whether this is the first batch of the run.
        share: how many images of the whole batch are here, times the number of processes over which it is spread.
    """

    inputs: Tensor
    labels: Tensor
    targets: Tensor
    teachers: list[Outputs] = field(default_factory=list)
    soft: Tensor | None = None
    first: bool = False
    share: float = 1.0


class ImageBatches:
    """Shuffled, augmented, normalised batches of an ImageSet; the order depends on the seed alone.

    `stored` holds, for each teacher, its outputs (V, N, ...) for every view, or nothing; or there is one store on
    disk, which says how the images are turned in each epoch, and what the teacher said of them. `part` is (which,
    of how many): every process draws the same batches, and keeps its part of each.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        augment: Augment,
        mix: Mix | None,
        seed: int,
        device: torch.device,
        stored: Sequence[Outputs] = (),
        store: LogitStore | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.data, self.store, self.part = data, store, part
        if min(batch_size, len(data) % batch_size or batch_size) < part[1]:
            raise ValueError(
                f"batch_size {batch_size} leaves a batch of {len(data)} images smaller than {part[1]} processes."
            )
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.batch_size, self.augment = batch_size, augment
        self.mixer = _mixer(mix, len(data.classes)) if mix is not None else None
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU: one order for all devices
        self.steps: int | None = math.ceil(len(data) / batch_size)
        self.stored = [{name: views.to(device) for name, views in outputs.items()} for outputs in stored]
        self.order = self.generator.get_state()  # from which the latest epoch's order was drawn
        self.go_on: tuple[Tensor, int] | None = None
        self.epoch = -1

    def __iter__(self) -> Iterator[Batch]:
        self.order = self.generator.get_state()
        self.epoch += 1
        height, width = self.images.shape[-2:]
        if self.store is not None:
            turned = self.epoch % self.store.views
            flips, shifts = self.store.draws(turned, (height, width))
            told = self.store.reader(turned)
        chunks = torch.randperm(len(self.labels), generator=self.generator).split(self.batch_size)
        if self.go_on is not None:
            self.generator.set_state(self.go_on[0])
            chunks = chunks[self.go_on[1] :]
            self.go_on = None
        for index in chunks:
            flip, shift, soft = torch.zeros(len(index), dtype=torch.bool), None, None
            if self.store is not None:
                flip, shift, soft = flips[index], shifts[index], told(index)
            elif self.augment:
                flip = torch.rand(len(index), generator=self.generator) < 0.5
                if self.augment is True:
                    shift = draw_shifts(len(index), (height, width), self.generator)
            which, many = self.part
            mine = slice(which, None, many)
            share = len(index[mine]) * many / len(index)
            if shift is not None:
                shift = shift[mine]
            if soft is not None:
                soft = soft[mine]
            index, flip = index[mine].to(self.labels.device), flip[mine]
            images = self.images.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
            labels = self.labels[index]
            if self.augment:
                with record_function("augmentation"):
                    images = move(images, flip, shift)
            inputs, targets = self.data.normalise(images), labels
            if self.mixer is not None:
                inputs, targets = self.mixer(inputs, labels)
                labels = targets.argmax(1)
            view = flip.long().to(index.device)
            teachers = [{name: views[view, index] for name, views in outputs.items()} for outputs in self.stored]
            if soft is not None:
                teachers = [{"logits": soft.to(labels.device)}]
            yield Batch(inputs, labels, targets, teachers, share=share)

    def state(self) -> dict[str, Tensor]:
        """What the batches after this one are drawn from."""
        return {"order": self.order, "now": self.generator.get_state(), "epoch": torch.tensor(self.epoch)}

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Go on after `step` batches of an epoch, from what :meth:`state` said then."""
        self.generator.set_state(state["order"] if step else state["now"])
        self.go_on = (state["now"], step) if step else None
        self.epoch = int(state["epoch"]) - (1 if step else 0)


def _mixer(mix: Mix, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Torchvision's, which draws the share of each image uniformly between 0 and 1."""
    from torchvision.transforms import v2  # slow to import, and rarely wanted

    return {"mixup": v2.MixUp, "cutmix": v2.CutMix}[mix](num_classes=classes)


class LoaderBatches:
    """The batches of any iterable, checked and moved to the device."""

    def __init__(self, data: Batches, device: torch.device) -> None:
        self.data, self.device = data, device
        self.steps: int | None = length(data)

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for pair in self.data:
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(x, Tensor) for x in pair)):
                raise ValueError(
                    f"train must give batches (inputs, labels) of two tensors, got {type(pair).__name__}: of tensors "
                    "make DataLoader(TensorDataset(inputs, labels), batch_size=128, shuffle=True)."
                )
            inputs, labels = (part.to(self.device) for part in pair)
            if len(labels) == 0:
                raise ValueError(f"train gave an empty batch in step {count + 1}: at least one image is wanted.")
            yield Batch(inputs, labels, labels)
            count += 1
        self.steps = count or None

    def state(self) -> dict[str, Tensor]:
        """The state of the data's own generator, if it has one."""
        generator = getattr(self.data, "generator", None)
        return {"own": generator.get_state()} if isinstance(generator, torch.Generator) else {}

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Go on from what :meth:`state` said between two epochs."""
        generator = getattr(self.data, "generator", None)
        if isinstance(generator, torch.Generator) and "own" in state:
            generator.set_state(state["own"])


@contextlib.contextmanager
def rewound(data: ImageSet | Batches) -> Iterator[None]:
    """Let a DataLoader that has its own generator start at that generator's seed; its state is given back."""
    generator = getattr(data, "generator", None)
    if not isinstance(generator, torch.Generator):
        yield
        return
    state = generator.get_state()
    generator.manual_seed(generator.initial_seed())
    try:
        yield
    finally:
        generator.set_state(state)


def length(data: Batches) -> int | None:
    """How many batches `data` says that it has, if it can say it (a stream cannot)."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except (TypeError, NotImplementedError):
        return None
