"""`kd.distill` beside the loop of the official PyTorch tutorial, and beside the floor: bare passes and nothing else.

Needs CIFAR-10 (`--root`, a folder with torchvision's official files). From the root of the repository::

    python benchmarks/distill.py --root DATA --images 5000 --epochs 10

1. *The tutorial*: its two networks (1,186,986 and 267,738 parameters), its loss (T = 2, a quarter of it soft), Adam, no
   augmentation. Its loop is written as there: a torchvision data set with a transform per image, a DataLoader with two
   workers, a teacher that is asked in every step. Same images, order, start, dropout and learning rates: the mean
   loss of the first 20 steps has to agree. Then the time from start to end, ours by stored logits, in turns.
2. *The floor*: ResNet-20 teaches a student of 13,942 parameters, with augmentation and a live teacher, and with stored
   logits. After each step of ours follows one of the floor, on one resident batch: the teacher's forward pass (live
   only), the student's forward and backward pass, nothing else. The median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import kdutils as kd
from kdutils import _loop

BATCH, TEMPERATURE, SOFT = 128, 2.0, 0.25
SHARED: dict[str, Any] = {
    "batch_size": BATCH, "temperature": TEMPERATURE, "kd_weight": SOFT, "ce_weight": 1 - SOFT, "augment": False,
    "optimizer": "adamw", "weight_decay": 0.0, "lr": 1e-3, "seed": 0, "progress": False,
}  # fmt: skip


def large() -> nn.Sequential:
    """The tutorial's teacher."""

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    return nn.Sequential(
        *convolution(3, 128), *convolution(128, 64), nn.MaxPool2d(2),
        *convolution(64, 64), *convolution(64, 32), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2048, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 10),
    )  # fmt: skip


def small() -> nn.Sequential:
    """The tutorial's student."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 10),
    )  # fmt: skip


def born(make: Callable[[], nn.Module]) -> nn.Module:
    with kd.seeded(0):
        return make()


def tutorial(teacher: nn.Module, train: kd.data.ImageSet, root: str, epochs: int) -> tuple[nn.Module, list[float]]:
    """The tutorial's loop, in our order and with our learning rates; the loss of every step."""
    student = born(small)
    mean, std = train.mean, train.std
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    data = datasets.CIFAR10(root, train=True, transform=transform)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    teacher.eval()
    student.train()
    found = []
    order = torch.Generator().manual_seed(0)
    steps = -(-len(train) // BATCH)
    with kd.seeded(0):
        for epoch in range(epochs):
            rows = torch.randperm(len(train), generator=order).tolist()
            own = torch.Generator()  # or the loader would draw from the generator that dropout needs
            loader = DataLoader(data, BATCH, sampler=rows, num_workers=2, generator=own)
            for step, (inputs, labels) in enumerate(loader):
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * _loop._one_cycle((epoch + step / steps) / epochs)
                optimizer.zero_grad()
                with torch.no_grad():
                    teacher_logits = teacher(inputs)
                logits = student(inputs)
                soft = F.softmax(teacher_logits / TEMPERATURE, dim=-1)
                told = F.log_softmax(logits / TEMPERATURE, dim=-1)
                soft_loss = torch.sum(soft * (soft.log() - told)) / len(told) * TEMPERATURE**2
                loss = SOFT * soft_loss + (1 - SOFT) * F.cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                found.append(loss.item())
    return student, found


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def beside_the_tutorial(root: str, images: int, epochs: int, repeats: int) -> None:
    every, test = kd.data.load("cifar10", root=root)
    train = every[:images]
    teacher = born(large)
    few = train[: 20 * BATCH]
    _, losses = tutorial(teacher, few, root, 1)
    ours = kd.distill(born(small), teacher, few, epochs=1, **SHARED)["loss"][0]
    print(f"mean loss of the first 20 steps: tutorial {statistics.mean(losses):.7f}, kdutils {ours:.7f}", flush=True)
    kd.fit(teacher, train, epochs=2, augment=False, optimizer="adamw", lr=1e-3, progress=False)
    ratios, accuracy = [], {}
    for turn in range(repeats):
        student = born(small)
        ends: dict[str, nn.Module] = {"kdutils": student}

        def theirs(ends: dict[str, nn.Module] = ends) -> None:
            ends["tutorial"] = tutorial(teacher, train, root, epochs)[0]

        def mine(student: nn.Module = student) -> None:
            kd.distill(student, teacher, train, epochs=epochs, **SHARED)

        pair = [theirs, mine] if turn % 2 == 0 else [mine, theirs]
        took = {work: seconds(work) for work in pair}
        ratios.append(took[theirs] / took[mine])
        accuracy = {name: kd.evaluate(model, test)["accuracy"] for name, model in ends.items()}
        print(f"tutorial {took[theirs]:.1f} s, kdutils {took[mine]:.1f} s: {ratios[-1]:.2f} times as fast", flush=True)
    print(f"median {statistics.median(ratios):.2f}; test accuracy {accuracy}")


def beside_the_floor(root: str, live: bool, pairs: int) -> list[float]:
    """For each step of ours the ratio to a bare step that follows it at once; augmentation is on."""
    train = kd.data.load("cifar10", root=root)[0][: 20 * BATCH]
    teacher = born(lambda: kd.models.resnet(20, in_channels=3)).eval()
    model, bare = (born(lambda: kd.models.tiny_cnn(12, in_channels=3)) for _ in range(2))
    bare.train()
    x, y = train[:BATCH].tensors()
    x = x.contiguous(memory_format=torch.channels_last)

    def floor() -> None:
        if live:
            with torch.no_grad():
                teacher(x)
        bare.zero_grad(set_to_none=True)
        F.cross_entropy(bare(x), y).backward()

    real, ratios, since = _loop._Loop.one_step, [], [0.0]

    def timed(self: Any, *arguments: Any) -> dict[str, Tensor]:
        found = real(self, *arguments)
        ours = time.perf_counter() - since[0]  # since the floor's last step: the batch is made in this time, too
        ratios.append(ours / seconds(floor))
        since[0] = time.perf_counter()
        return found

    with tempfile.TemporaryDirectory() as folder:
        source = teacher if live else kd.store.fill(folder, teacher, train, views=2, progress=False)
        for _ in range(3):
            floor()
        with patch.object(_loop._Loop, "one_step", timed):
            options = {**SHARED, "optimizer": "sgd", "lr": 0.1, "augment": True}
            kd.distill(model, source, train, epochs=-(-pairs // 20) + 1, **options)
    return ratios[20:]  # the first epoch warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with CIFAR-10")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "the teacher is right on")  # where only the time counts it is untrained
    for name, live in (("a live teacher and augmentation", True), ("stored logits", False)):
        ratios = beside_the_floor(options.root, live, options.pairs)
        print(
            f"a step with {name}: {statistics.median(ratios):.3f} times the floor, n = {len(ratios)} pairs", flush=True
        )
    beside_the_tutorial(options.root, options.images, options.epochs, options.repeats)


if __name__ == "__main__":
    main()
