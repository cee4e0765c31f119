"""`kd.distill` beside the official PyTorch tutorial's loop, beside torchdistill, and beside the floor: bare passes.

`make bench` runs it all and writes `benchmarks/distill.json`; it needs CIFAR-10 in the cache folder (or ROOT=folder).

1. *The two others*: the tutorial's networks (1,186,986 and 267,738 parameters), its loss (T = 2, a quarter of it soft),
   Adam, no augmentation. (a) The tutorial's loop is written as there: a torchvision data set with a transform per
   image, a DataLoader with two workers, a teacher that is asked in every step. (b) torchdistill has the same data set,
   workers and loss, and runs its own forward and backward passes. All three: the same images, order, start, dropout and
   learning rates; the mean loss of the first 20 steps has to agree. Then the time from start to end, one after the
   other in turns, ours by stored logits.
2. *The floor*: ResNet-20 teaches a student of 13,942 parameters, with augmentation, from a live teacher and from a
   store. After each step of ours follows one of the floor, on one resident batch: the teacher's forward pass (live
   only), the student's forward and backward pass, nothing else. The median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler
from torchvision import datasets, transforms

import kdutils as kd
from kdutils import _base, _loop
from kdutils.studies import _record

BATCH, TEMPERATURE, SOFT = 128, 2.0, 0.25
ENDS = {"path": ".", "io": "output"}  # of a network as a whole
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


def order(images: int, epochs: int) -> list[list[int]]:
    """The rows of each epoch, as `kd.distill` draws them."""
    drawn = torch.Generator().manual_seed(0)
    return [torch.randperm(images, generator=drawn).tolist() for _ in range(epochs)]


def per_image(root: str, train: kd.data.ImageSet) -> datasets.CIFAR10:
    """The data set of the other two."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(train.mean, train.std)])
    return datasets.CIFAR10(root, train=True, transform=transform)


def tutorial(teacher: nn.Module, train: kd.data.ImageSet, root: str, epochs: int) -> tuple[nn.Module, list[float]]:
    """The tutorial's loop, in our order and with our learning rates; the loss of every step."""
    student, data = born(small), per_image(root, train)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    teacher.eval()
    student.train()
    found = []
    steps = epochs * -(-len(train) // BATCH)
    with kd.seeded(0):
        for rows in order(len(train), epochs):
            own = torch.Generator()  # or the loader would draw from the generator that dropout needs
            for inputs, labels in DataLoader(data, BATCH, sampler=rows, num_workers=2, generator=own):
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * _loop._one_cycle(len(found) / steps)
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


class Order(Sampler[int]):
    """The rows of one epoch after the other."""

    def __init__(self, data: object, epochs: list[list[int]]) -> None:
        self.epochs = iter(epochs)

    def __iter__(self) -> Iterator[int]:
        return iter(next(self.epochs))


def other_package(teacher: nn.Module, train: kd.data.ImageSet, root: str, epochs: int) -> tuple[nn.Module, list[float]]:
    """The same run by torchdistill (Matsubara 2021, arXiv:2011.12913); the loss of every step."""
    from torchdistill.core.distillation import DistillationBox

    student = born(small)
    teacher.eval()
    steps = epochs * -(-len(train) // BATCH)
    whole = {f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in ENDS.items()}
    loss = {"key": "KDLoss", "kwargs": {**whole, "temperature": TEMPERATURE, "alpha": 1 - SOFT, "beta": SOFT}}
    box = DistillationBox(
        teacher, student, {"cifar10": per_image(root, train)},
        {
            "num_epochs": epochs,
            "train_data_loader": {
                "dataset_id": "cifar10",
                "sampler": {"class_or_func": Order, "kwargs": {"epochs": order(len(train), epochs)}},
                "kwargs": {"batch_size": BATCH, "num_workers": 2, "generator": torch.Generator()},
            },
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "Adam", "kwargs": {"lr": 1e-3}},
            "scheduler": {
                "key": "LambdaLR", "scheduling_step": 1,
                "kwargs": {"lr_lambda": lambda step: _loop._one_cycle(step / steps)},
            },
            "criterion": {
                "key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}
            },
        },
        torch.device("cpu"), None, False, 1.0,
    )  # fmt: skip
    found = []
    with kd.seeded(0):
        for epoch in range(epochs):
            box.pre_epoch_process(epoch=epoch)
            for inputs, labels, rest in box.train_data_loader:
                each = box.forward_process(inputs, labels, rest)
                box.post_forward_process(each)
                found.append(each.item())
            box.post_epoch_process()
    box.clean_modules()  # which gives the teacher's parameters their gradients back
    return student, found


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def beside_the_others(root: str, images: int, epochs: int, repeats: int) -> dict[str, Any]:
    """What is to be reported of the runs with the tutorial's networks."""
    every, test = kd.data.load("cifar10", root=root)
    train = every[:images]
    teacher = born(large)
    few = train[: 20 * BATCH]
    others = {"tutorial": tutorial, "torchdistill": other_package}
    first = {name: statistics.mean(run(teacher, few, root, 1)[1]) for name, run in others.items()}
    first["kdutils"] = kd.distill(born(small), teacher, few, epochs=1, **SHARED)["loss"][0]
    print("mean loss of the first 20 steps:", first, flush=True)
    if max(first.values()) - min(first.values()) > 1e-5:
        raise SystemExit("the losses differ: these runs are not the same mathematics.")
    kd.fit(teacher, few, epochs=2, augment=False, optimizer="adamw", lr=1e-3, progress=False)  # enough to time it
    took: dict[str, list[float]] = {name: [] for name in first}
    accuracy: dict[str, list[float]] = {name: [] for name in first}
    for turn in range(repeats):
        names = list(first) if turn % 2 else list(first)[::-1]
        for name in names:
            student = born(small)
            start = time.perf_counter()
            if name == "kdutils":
                kd.distill(student, teacher, train, epochs=epochs, **SHARED)
            else:
                student = others[name](teacher, train, root, epochs)[0]
            took[name].append(time.perf_counter() - start)
            accuracy[name].append(kd.evaluate(student, test)["accuracy"])
            print(f"{name}: {took[name][-1]:.1f} s", flush=True)
    return {"images": images, "epochs": epochs, "first_20_losses": first, "seconds": took, "accuracy": accuracy}


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
    parser.add_argument("--root", default=str(_base.cache_folder()), help="folder with CIFAR-10")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the results there, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "the teacher is right on")  # where only the time counts it is untrained
    logging.disable(logging.INFO)  # torchdistill tells of its settings
    results: dict[str, Any] = {
        "machine": _record.processor(), "threads": options.threads,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": _record._commit(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "numpy", "torchdistill")},
    }  # fmt: skip
    table = []

    def keep() -> None:
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")

    for name, live in (("live teacher", True), ("store", False)):
        ratios = beside_the_floor(options.root, live, options.pairs)
        low, middle, high = statistics.quantiles(ratios, n=4)
        results[f"floor, {name}"] = {"median": middle, "quartiles": [low, high], "pairs": len(ratios)}
        table.append((f"a step, {name}, in units of the floor", middle, len(ratios)))
        keep()
        print(table[-1], flush=True)
    found = results["others"] = beside_the_others(options.root, options.images, options.epochs, options.repeats)
    for name in ("tutorial", "torchdistill"):
        pairs = list(zip(found["seconds"][name], found["seconds"]["kdutils"], strict=True))
        ratios = [theirs / ours for theirs, ours in pairs]
        found[f"{name} / kdutils"] = statistics.median(ratios)
        table.append((f"{name}, in units of kdutils", statistics.median(ratios), len(ratios)))
    print(f"\n{'':45}{'ratio':>7}{'n':>5}")
    for name, ratio, n in table:
        print(f"{name:45}{ratio:7.3f}{n:5d}")
    keep()


if __name__ == "__main__":
    main()
