"""What the engine costs: time, disk and memory against the number of images.

    python -m kdutils.studies.cost

- *images*: 5,000 to 40,000 images of Fashion-MNIST. Processor seconds (one thread, the fastest of three repeats) to
  store one augmented view of them with the shipped `tiny_cnn` as teacher, and for one epoch of a student of the same
  kind from that store; bytes of the store per view.
- *memory*: the largest resident set of a fresh process that trains `tiny_cnn(12)` for an epoch with augmentation on all
  of Fashion-MNIST, or of CIFAR-10, less that of the same process when torch is imported (Linux).

Writes `recorded/cost.csv` and `recorded/cost_memory.csv`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

import kdutils as kd
from kdutils.studies import _jobs
from kdutils.studies._record import Record

IMAGES, REPEATS = (5_000, 10_000, 20_000, 40_000), 3
SETS = ("fashion_mnist", "cifar10")
PEAK = """
import sys, torch
torch.set_num_threads(1)
def resident(name):
    with open("/proc/self/status") as status:  # getrusage would count the process that started this one, too
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024 / 1e6
before = resident("VmRSS")
import kdutils as kd
train, test = kd.data.load(sys.argv[1])
student = kd.models.tiny_cnn(12, in_channels=train.images.shape[1])
kd.fit(student, train, epochs=1, progress=False)
kd.evaluate(student, test)
data = sum(each.nbytes for part in (train, test) for each in (part.images, part.labels))
print(resident("VmHWM") - before, data / 1e6)
"""


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(train: kd.data.ImageSet, teacher: nn.Module) -> dict[str, float]:
    """Of one view and one epoch: seconds and bytes."""
    student = kd.models.tiny_cnn()
    with tempfile.TemporaryDirectory() as folder:
        fill = seconds(lambda: kd.store.fill(folder, teacher, train, views=1))
        store = kd.store.load(folder, teacher, train)
        epoch = seconds(lambda: kd.distill(student, store, train, epochs=1))
        size = sum(path.stat().st_size for path in Path(folder).glob("view-*"))
    return {"fill_seconds": fill, "epoch_seconds": epoch, "store_bytes": size}


def main() -> None:
    """Run what is not recorded yet."""
    _jobs.jobs(__doc__)
    every = kd.data.load("fashion_mnist")[0]
    teacher = kd.zoo.load("fashion_mnist/tiny_cnn")
    record = Record("cost", keys=("images",))
    for images in IMAGES:
        if not record.has(images=images):
            found = [measure(every[:images], teacher) for _ in range(REPEATS)]
            record.add(images=images, **{name: min(each[name] for each in found) for name in found[0]})
    record.provenance(repeats=REPEATS, student="tiny_cnn()", teacher="fashion_mnist/tiny_cnn", batch=128)
    record = Record("cost_memory", keys=("set",))
    for name in SETS:
        if not record.has(set=name):
            shown = subprocess.run([sys.executable, "-c", PEAK, name], check=True, capture_output=True, text=True)
            peak, data = map(float, shown.stdout.split())
            record.add(set=name, peak_megabytes=peak, data_megabytes=data)


if __name__ == "__main__":
    main()
