"""Many teachers, or none: ensembles, assistants, born-again and mutual students, wrong teachers, borrowed weights.

    python -m kdutils.studies.many_teachers

One draw of 10,000 training images, the same for every network; the only one that saw more is the shipped
ResNet-14 (55,000). Every network is a `tiny_cnn` of some width, trained for the same number of steps on
flipped images and measured after the last one. Three parts:

- *choice* (validation accuracy only, two more seeds): kd_weight of each arm that has a teacher, with
  ce_weight = 1 − kd_weight. Temperature and learning rate are those of `kdutils.studies.students`.
- *arms*: see `ARMS`; the teachers of seed s are networks of seed s, and an ensemble takes four of the
  eight seeds. The primary comparison, declared before the runs: four teachers (averaging
  probabilities) against one.
- *start*: a ResNet-8 distilled from the ResNet-14 for a short time, from a random start, from every other
  block of the teacher, and from the same weights with the entries of each tensor shuffled.

A seed stands for the start and the order of a student and of its teachers, not for the draw of the images.
Writes `recorded/many_teachers_choice.csv`, `many_teachers.csv` and `many_teachers_start.csv`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kdutils as kd
from kdutils._base import cache_folder
from kdutils.metrics import compare_logits, evaluate_logits, logits_and_labels
from kdutils.studies import _jobs, students
from kdutils.studies._record import FOLDER, Record

STEPS, START_STEPS, BATCH, IMAGES = 948, 158, 128, 10_000
SEEDS, CHOICE_SEEDS = range(8), range(100, 102)
KD_WEIGHTS = (0.1, 0.3, 0.5, 0.9)
PRIMARY = ("four, probabilities", "one teacher")


class Arm(NamedTuple):
    """A network of some width and who teaches it: other arms, "resnet14", or nobody.

    "width 32+1" is the network of that arm with the next seed: a student as wide as its teacher must not
    begin from its teacher's own start and order. `choice` is the arm whose kd_weight it
    takes, its own if empty; `wrong` is what is done to its teacher.
    """

    width: int
    teachers: tuple[str, ...] = ()
    average: Literal["probabilities", "logits"] = "probabilities"
    choice: str = ""
    wrong: Literal["", "shifted classes", "untrained"] = ""


FOUR = ("width 32", "width 32+1", "width 32+2", "width 32+3")
ARMS = {
    "width 4": Arm(4),
    "width 8": Arm(8),
    "width 16": Arm(16),
    "width 32": Arm(32),
    # one or four teachers, for a student of width 8
    "one teacher": Arm(8, ("width 32",)),
    "four, probabilities": Arm(8, FOUR),
    "four, logits": Arm(8, FOUR, "logits"),
    # no larger teacher
    "born again 1": Arm(8, ("width 8+1",)),
    "born again 2": Arm(8, ("born again 1+1",), choice="born again 1"),
    "born again 3": Arm(8, ("born again 2+1",), choice="born again 1"),
    "mutual": Arm(8),
    # weak and wrong teachers
    "weak teacher": Arm(8, ("width 4",)),
    "shifted classes": Arm(8, ("width 32",), wrong="shifted classes"),
    "untrained": Arm(8, ("width 32",), wrong="untrained"),
    # the capacity gap, for a student of width 4
    "4 from 4": Arm(4, ("width 4+1",)),
    "4 from 8": Arm(4, ("width 8",)),
    "4 from 16": Arm(4, ("width 16",)),
    "4 from 32": Arm(4, ("width 32",)),
    "4 from resnet14": Arm(4, ("resnet14",)),
    # assistants between the ResNet-14 and the student of width 4
    "16 from resnet14": Arm(16, ("resnet14",)),
    "8 from resnet14": Arm(8, ("resnet14",)),
    "8 from 16 from resnet14": Arm(8, ("16 from resnet14",), choice="8 from resnet14"),
    "4 via 16": Arm(4, ("16 from resnet14",), choice="4 from resnet14"),
    "4 via 8": Arm(4, ("8 from resnet14",), choice="4 from resnet14"),
    "4 via 16 and 8": Arm(4, ("8 from 16 from resnet14",), choice="4 from resnet14"),
}
STARTS = ("random", "every other block", "shuffled entries")


class Lab:
    """The data, and what every network of the study says of it."""

    def __init__(self) -> None:
        everything, self.validation, self.test = kd.selection.split()
        self.train = everything.subset(IMAGES, seed=0)
        self.settings = students.settings()
        self.folder = cache_folder() / f"many_teachers-{STEPS}-{IMAGES}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.big = kd.zoo.load("fashion_mnist/resnet14")
        path = self.folder / "resnet14.safetensors"
        if not path.exists():
            self._keep(path, self.big)

    def says(self, name: str, seed: int) -> dict[str, Tensor]:
        """A network's logits: "train" (2, N, K) for both views, "test" (10,000, K); trained if it is not yet."""
        if name == "resnet14":
            return load_file(self.folder / "resnet14.safetensors")
        weight = chosen(name)
        path = self.folder / f"{name.replace(' ', '_')}-{weight:g}-{seed}.safetensors"
        if not path.exists():
            self._keep(path, self.network(name, seed, weight))
        return load_file(path)

    def _keep(self, path: Path, model: nn.Module) -> None:
        both = kd.teacher_logits(model, self.train, augment="flip")
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({"train": both, "test": logits_and_labels(model, self.test)[0]}, temporary)
        temporary.replace(path)

    def teachers(self, name: str, seed: int, part: str) -> list[Tensor]:
        """The logits of an arm's teachers for one part of the data."""
        found = []
        for each in ARMS[name].teachers:
            teacher, _, later = each.partition("+")
            logits = self.says(teacher, (seed + int(later or 0)) % len(SEEDS))[part]
            if ARMS[name].wrong == "shifted classes":
                logits = logits.roll(1, dims=-1)
            if ARMS[name].wrong == "untrained":
                with kd.seeded(seed + 1000):
                    fresh = kd.models.tiny_cnn(32)
                logits = kd.teacher_logits(fresh, self.train, augment="flip")
                logits = logits if part == "train" else logits_and_labels(fresh, self.test)[0]
            found.append(logits)
        return found

    def network(self, name: str, seed: int, kd_weight: float) -> nn.Module:
        """Train one network of one arm."""
        arm = ARMS[name]
        with kd.seeded(seed):
            model = kd.models.tiny_cnn(arm.width)
        shared: dict[str, Any] = {"augment": "flip", "seed": seed, "lr": self.settings["lr"]}
        shared["epochs"] = round(STEPS / np.ceil(IMAGES / BATCH))
        if name == "mutual":
            with kd.seeded(seed + 1000):
                other = kd.models.tiny_cnn(arm.width)
            kd.mutual([model, other], self.train, **shared)
        elif not arm.teachers:
            kd.fit(model, self.train, **shared)
        else:
            with warnings.catch_warnings():
                if arm.wrong:  # wrong on purpose
                    warnings.filterwarnings("ignore", message="the teacher is right on")
                kd.distill(
                    model,
                    self.teachers(name, seed, "train"),
                    self.train,
                    temperature=self.settings["temperature"],
                    kd_weight=kd_weight,
                    ce_weight=1 - kd_weight,
                    teacher_average=arm.average,
                    **shared,
                )
        return model


def chosen(name: str) -> float:
    """The kd_weight with the best mean validation accuracy; 0 for an arm without a teacher."""
    if not ARMS[name].teachers:
        return 0.0
    table = pd.read_csv(FOLDER / "many_teachers_choice.csv")
    table = table[table["arm"] == (ARMS[name].choice or name)]
    return float(kd.selection.choose(table, by="kd_weight")["kd_weight"])


def choice(lab: Lab, name: str, seed: int) -> None:
    """The first part: all weights of one arm and seed."""
    record = Record("many_teachers_choice", keys=("arm", "kd_weight", "seed"))
    for weight in KD_WEIGHTS:
        row: dict[str, Any] = {"arm": name, "kd_weight": weight, "seed": seed}
        if not record.has(**row):
            model = lab.network(name, seed, weight)
            found = evaluate_logits(*logits_and_labels(model, lab.validation))
            record.add(**row, val_accuracy=found["accuracy"], val_nll=found["nll"], n=found["n"])


def measure(lab: Lab, name: str, seed: int) -> None:
    """The second part: one network."""
    record = Record("many_teachers", keys=("arm", "seed"))
    if record.has(arm=name, seed=seed):
        return
    arm, weight, labels = ARMS[name], chosen(name), lab.test.labels
    logits = lab.says(name, seed)["test"]
    about_teacher = {"teacher_accuracy": float("nan"), "agreement": float("nan")}
    if arm.teachers:
        soft = kd.losses.average_teachers(
            lab.teachers(name, seed, "test"), temperature=lab.settings["temperature"], average=arm.average
        )
        near = compare_logits(logits, soft, labels)
        about_teacher = {"teacher_accuracy": evaluate_logits(soft, labels)["accuracy"], "agreement": near["agreement"]}
    record.add(
        arm=name, width=arm.width, kd_weight=weight, seed=seed, **evaluate_logits(logits, labels), **about_teacher
    )


def every_other_block(teacher: nn.Module) -> nn.Module:
    """A ResNet-8 with the stem, the head and the first block of each stage of a ResNet-14 (Sanh et al. 2019)."""
    student = kd.models.resnet(8)
    wanted = student.state_dict()
    student.load_state_dict({name: value for name, value in teacher.state_dict().items() if name in wanted})
    return student


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """The same numbers in every parameter tensor, in another order: the scale of a start without its content."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return model


def start(lab: Lab, name: str, seed: int) -> None:
    """The third part: one ResNet-8."""
    record = Record("many_teachers_start", keys=("start", "seed"))
    if record.has(start=name, seed=seed):
        return
    with kd.seeded(seed):
        model: nn.Module = kd.models.resnet(8) if name == "random" else every_other_block(lab.big)
    if name == "shuffled entries":
        model = shuffled(model, seed)
    before = kd.evaluate(model, lab.test)["accuracy"]
    kd.distill(
        model,
        lab.says("resnet14", seed)["train"],
        lab.train,
        epochs=round(START_STEPS / np.ceil(IMAGES / BATCH)),
        temperature=lab.settings["temperature"],
        kd_weight=1.0,
        ce_weight=0.0,
        augment="flip",
        seed=seed,
    )
    record.add(start=name, seed=seed, **kd.evaluate(model, lab.test), accuracy_before=before)


def parts() -> Iterator[list[tuple[Callable[[Lab, str, int], None], str, int]]]:
    """Lists of runs (function, name, seed): the runs of one list are independent of each other."""
    yield [(measure, name, seed) for seed in SEEDS for name in ARMS if not ARMS[name].teachers]
    own = [name for name, arm in ARMS.items() if arm.teachers and not arm.choice]
    yield [(choice, name, seed) for seed in CHOICE_SEEDS for name in own]
    yield [(measure, name, seed) for seed in SEEDS for name in own]
    for name in ARMS:  # each learns from one that comes before it
        if ARMS[name].choice:
            yield [(measure, name, seed) for seed in SEEDS]
    yield [(start, name, seed) for seed in SEEDS for name in STARTS]


def main() -> None:
    """Run what is not recorded yet."""
    jobs, lab = _jobs.jobs(__doc__), Lab()
    for runs in parts():
        _jobs.spread(lambda run: run[0](lab, *run[1:]), runs, jobs)
    facts = {"teacher": kd.zoo.card("fashion_mnist/resnet14")["sha256"], "images": IMAGES, "batch": BATCH}
    steps = {"steps": STEPS, "start_steps": START_STEPS, "primary": list(PRIMARY)}
    orders = {"many_teachers_choice": ("arm", "kd_weight", "seed"), "many_teachers": ("arm", "seed")}
    for name, columns in (orders | {"many_teachers_start": ("start", "seed")}).items():
        Record(name, keys=()).finish(columns, **facts, **steps, chosen=students.settings())


if __name__ == "__main__":
    main()
