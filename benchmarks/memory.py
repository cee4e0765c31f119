"""Peak memory of training on all of Fashion-MNIST and of CIFAR-10, over that of an interpreter with torch imported.

Linux, on the CPU. Needs CIFAR-10 (`--root`, a folder with torchvision's official files). From the root of the
repository::

    python benchmarks/memory.py --root DATA

Each line is a process of its own, and counts all that comes after `import torch`: the other libraries, reading the
files, the training with a checkpoint, the evaluation on the whole test set. The data are never cut; the training is
stopped after 30 steps, because a step takes what the step before it took, and gave back: the peaks lie in reading, in
the hash of the data for the checkpoint, in what is computed beforehand for all images, in a step and in the
evaluation, and all of these come. `--steps` takes more, to see that it does not grow.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

WAYS = {
    "fit": "ResNet-20, labels alone, augmentation",
    "live": "ResNet-20 teaches a small student, augmentation",
    "flip": "a small teacher's logits of both views of all images beforehand",
    "store": "a small teacher's logits of one augmented view of all images, in a store",
}
BOUND = 700  # megabytes beside the data


def kilobytes(name: str) -> int:
    """Of this process; the maximum that `getrusage` gives is inherited from the process that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


def measure(name: str, way: str, steps: int, root: str | None) -> tuple[float, float]:
    """Peak memory of this process over what it has now, and the size of the data; megabytes."""
    torch.set_num_threads(2)
    before = kilobytes("VmRSS")

    import kdutils as kd

    warnings.simplefilter("ignore")  # an untrained teacher weighs as much as a trained one
    train, test = kd.data.load(name, root=root)
    channels = train.images.shape[1]
    small, other = (kd.models.tiny_cnn(12, in_channels=channels) for _ in range(2))
    large = kd.models.resnet(20, in_channels=channels)
    student, teacher = large if way == "fit" else small, large if way == "live" else other
    left = iter(range(steps))

    def stop(*_: object) -> None:
        if student.training and next(left, None) is None:
            raise InterruptedError

    student.register_forward_pre_hook(stop)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(InterruptedError):
        shared: dict[str, Any] = {
            "epochs": 100, "checkpoint": Path(folder) / "run", "checkpoint_every": 10, "progress": False,
        }  # fmt: skip
        if way == "fit":
            kd.fit(student, train, **shared)
        elif way == "store":
            store = kd.store.fill(Path(folder) / "store", teacher, train, views=1, progress=False)
            kd.distill(student, store, train, **shared)
        else:
            kd.distill(student, teacher, train, augment="flip" if way == "flip" else True, **shared)
    kd.evaluate(student.eval(), test)
    data = sum(each.nbytes for part in (train, test) for each in (part.images, part.labels))
    return (kilobytes("VmHWM") - before) * 1024 / 1e6, data / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder with CIFAR-10; without it, only Fashion-MNIST is measured")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    for name in ["fashion_mnist", *(["cifar10"] if options.root else [])]:
        for way in options.ways:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                peak, data = fresh.submit(measure, name, way, options.steps, options.root).result()
            over = peak - data
            verdict = "within" if over <= BOUND else "ABOVE"
            print(
                f"{name}, {WAYS[way]}: peak {peak:.0f} MB, data {data:.0f} MB, so {over:.0f} MB beside them, "
                f"{verdict} {BOUND}",
                flush=True,
            )


if __name__ == "__main__":
    main()
