"""CIFAR-10: a strong teacher, two students, and four ways to train each.

    python -m kdutils.studies.cifar10_gpu

Made for a GPU; on a CPU it runs scaled down, and what was recorded says which of the two it was. On a GPU: a
ResNet-20 four times as wide (4.3 million parameters) teaches a ResNet-20 and a student of 13,942 parameters, on
45,000 images. Scaled down: the shipped ResNet-8 (75 % right) teaches a ResNet-8 of half its width and that same small
student, on 2,000 images and for 10 epochs: far from what these networks can do, but the same code and questions.

- *choice* (5,000 validation images, 500 when scaled down; the test images are not touched): per student the
  learning rate with labels alone, and with it the temperature of KD, the second weight of DKD, and what is added
  to KD in the best combination (CRD or SP).
- *contest*: labels, KD, DKD and that combination; measured after the last epoch, without test-time augmentation, on
  the 10,000 test images. Besides, the seconds of training until the validation accuracy
  first reached each of some marks: 90, 91, 92 and 92.5 % on a GPU.

A seed stands for the draw of the images (scaled down), the start and the order, the same in every arm.
Writes `recorded/cifar10_gpu.csv`, `recorded/cifar10_gpu_choice.csv` and, of what the teacher cost,
`recorded/cifar10_gpu_teacher.csv`; scaled down, the first two with "cpu" in place of "gpu". The teacher is kept as a
checkpoint in the cache folder, from which an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

import kdutils as kd
from kdutils import _base, losses
from kdutils.data import ImageSet
from kdutils.studies._record import FOLDER, Record

ARMS = ("labels", "KD", "DKD", "combination")
LEARNING_RATES, TEMPERATURES, SECOND_WEIGHTS, ADDED = (0.05, 0.1, 0.2), (2.0, 4.0), (1.0, 4.0), ("CRD", "SP")
KD_WEIGHT = 0.9
LAYERS = {"resnet": ("stage3", "pool"), "small": ("8", "9")}  # of maps and of pooled features


@dataclass(frozen=True)
class Size:
    """What differs between a GPU and a CPU."""

    name: str
    teacher: dict[str, int] | None  # of the network that is trained; None: the shipped one
    teacher_epochs: int
    students: dict[str, Callable[[], nn.Module]]
    images: int | None  # drawn for each seed; None: all
    validation: int
    epochs: int
    choice_epochs: int
    batch: int
    test: int
    seeds: range
    choice_seeds: range
    marks: tuple[float, ...]


def small() -> nn.Module:
    """13,942 parameters."""
    return kd.models.tiny_cnn(12, in_channels=3)


GPU = Size(
    "gpu", {"depth": 20, "width": 64}, 100, {"resnet": partial(kd.models.resnet, 20, in_channels=3), "small": small},
    None, 5_000, 100, 30, 256, 10_000, range(5), range(100, 102), (0.9, 0.91, 0.92, 0.925),
)  # fmt: skip
CPU = Size(
    "cpu", None, 0, {"resnet": partial(kd.models.resnet, 8, width=8, in_channels=3), "small": small},
    2_000, 500, 10, 10, 64, 10_000, range(5), range(100, 101), (0.3, 0.35, 0.4),
)  # fmt: skip


class Lab:
    """The data and the teacher."""

    def __init__(self, size: Size, parts: tuple[ImageSet, ImageSet, ImageSet]) -> None:
        self.size, (self.train, self.validation, self.test) = size, parts
        self.validation, self.test = self.validation[: size.validation], self.test[: size.test]
        self.teacher = self.taught() if size.teacher else kd.zoo.load("cifar10/resnet8")
        self.teacher.eval()

    def taught(self) -> nn.Module:
        """The teacher, trained on all but the validation images, or taken from its checkpoint."""
        assert self.size.teacher is not None
        with kd.seeded(0):
            model = kd.models.resnet(**self.size.teacher, in_channels=3)
        folder = _base.cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        history = kd.fit(
            model, self.train, epochs=self.size.teacher_epochs, batch_size=self.size.batch, label_smoothing=0.0,
            checkpoint=folder / "cifar10_teacher.safetensors", resume=True,
        )  # fmt: skip
        record = Record("cifar10_gpu_teacher", keys=("seed",))
        if not record.has(seed=0):
            found = kd.evaluate(model, self.test)
            record.add(seed=0, **found, seconds=sum(history["seconds"]))
            record.provenance(**self.size.teacher, epochs=self.size.teacher_epochs)
        return model

    def terms(self, student: str, added: str) -> list[kd.Term]:
        """What is added to KD; the weights are those of chapter 7's choice."""
        maps, pooled = LAYERS[student]
        if added == "CRD":
            return [kd.Term("contrast", losses.crd_loss, 0.1, pooled, "pool", projector="linear")]
        return [kd.Term("similarity", losses.similarity_loss, 300.0, maps, "stage3")]

    def run(self, student: str, arm: str, setting: dict[str, Any], seed: int, epochs: int) -> dict[str, Any]:
        """Train one student; gives the network and its history."""
        images = self.train if self.size.images is None else self.train.subset(self.size.images, seed)
        with kd.seeded(seed):
            model = self.size.students[student]()
        shared: dict[str, Any] = {
            "epochs": epochs, "batch_size": self.size.batch, "seed": seed, "lr": setting["lr"],
            "validation": self.validation,
        }  # fmt: skip
        if arm == "labels":
            return {"model": model, "history": kd.fit(model, images, **shared)}
        mixed: dict[str, Any] = {"temperature": setting["temperature"], "kd_weight": KD_WEIGHT}
        if arm == "DKD":
            loss = partial(
                losses.dkd_loss, temperature=4.0, target_weight=1.0, nontarget_weight=setting["nontarget_weight"]
            )
            mixed = {"kd_weight": 0.0, "ce_weight": 1.0, "terms": [kd.Term("dkd", loss, 1.0, labels=True)]}
        else:
            mixed["ce_weight"] = 1 - KD_WEIGHT
            if arm == "combination":
                mixed["terms"] = self.terms(student, setting["added"])
        return {"model": model, "history": kd.distill(model, self.teacher, images, **mixed, **shared)}


def choice(lab: Lab) -> None:
    """The first part, one stage after the other: each takes what the stages before it chose."""
    record = Record(f"cifar10_{lab.size.name}_choice", keys=("student", "stage", "value", "seed"))
    for student in lab.size.students:
        setting: dict[str, Any] = {}
        for stage, arm, values in (
            ("lr", "labels", LEARNING_RATES),
            ("temperature", "KD", TEMPERATURES),
            ("nontarget_weight", "DKD", SECOND_WEIGHTS),
            ("added", "combination", ADDED),
        ):
            for value in values:
                for seed in lab.size.choice_seeds:
                    row = {"student": student, "stage": stage, "value": value, "seed": seed}
                    if not record.has(**row):
                        found = lab.run(student, arm, setting | {stage: value}, seed, lab.size.choice_epochs)
                        record.add(**row, val_accuracy=found["history"]["val_accuracy"][-1], n=len(lab.validation))
            setting[stage] = chosen(lab.size, student)[stage]


def chosen(size: Size, student: str) -> dict[str, Any]:
    """For each stage that is recorded the value with the best mean validation accuracy."""
    table = pd.read_csv(FOLDER / f"cifar10_{size.name}_choice.csv")
    found = {}
    for stage, rows in table[table["student"] == student].groupby("stage"):
        value = kd.selection.choose(rows, by="value")["value"]
        found[str(stage)] = value if stage == "added" else float(value)
    return found


def contest(lab: Lab) -> None:
    """The second part."""
    record = Record(f"cifar10_{lab.size.name}", keys=("student", "arm", "seed"))
    for seed in lab.size.seeds:
        for student in lab.size.students:
            for arm in ARMS:
                if record.has(student=student, arm=arm, seed=seed):
                    continue
                start = time.process_time()
                done = lab.run(student, arm, chosen(lab.size, student), seed, lab.size.epochs)
                history = done["history"]
                record.add(
                    student=student, arm=arm, seed=seed, **kd.evaluate(done["model"], lab.test),
                    cpu_seconds=time.process_time() - start, seconds=sum(history["seconds"]),
                    **{f"seconds_to_{mark * 100:g}": reached(history, mark) for mark in lab.size.marks},
                )  # fmt: skip


def reached(history: dict[str, list[float]], mark: float) -> float:
    """Seconds of training until the validation accuracy first was at least `mark`; NaN if it never was."""
    seconds = 0.0
    for each, accuracy in zip(history["seconds"], history["val_accuracy"], strict=True):
        seconds += each
        if accuracy >= mark:
            return seconds
    return float("nan")


def main() -> None:
    """Run what is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder with CIFAR-10; by default it is downloaded into the cache folder")
    options = parser.parse_args()
    size = GPU if kd.device().type == "cuda" else CPU
    if size is CPU:
        torch.set_num_threads(1)
    lab = Lab(size, kd.selection.split("cifar10", root=options.root))
    choice(lab)
    contest(lab)
    facts = {
        "size": size.name, "images": size.images or len(lab.train), "epochs": size.epochs, "batch": size.batch,
        "choice_epochs": size.choice_epochs, "teacher": kd.evaluate(lab.teacher, lab.test),
        "parameters": {name: sum(p.numel() for p in make().parameters()) for name, make in size.students.items()},
        "chosen": {name: chosen(size, name) for name in size.students},
    }  # fmt: skip
    Record(f"cifar10_{size.name}_choice", keys=()).finish(("student", "stage", "value", "seed"), **facts)
    Record(f"cifar10_{size.name}", keys=()).finish(("student", "arm", "seed"), **facts)


if __name__ == "__main__":
    main()
