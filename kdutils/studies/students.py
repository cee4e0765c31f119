"""Does distillation help a small student, by how much, and compared with what?

    python -m kdutils.studies.students

Every run trains `tiny_cnn()` for the same number of steps on flipped images, and is measured after the
last step. Three parts, in this order:

- *choice* (validation accuracy only; the test images are not touched): the learning rate and the label
  smoothing of the student alone, then temperature × kd_weight of the distilled one. `ce_weight` is
  1 − `kd_weight`. The learning rate that is best for the student *alone* is used for every arm.
- *arms*: labels, label smoothing, permuted teacher (each image gets the soft label of another image of
  its class: what is left of a teacher that knows classes but not images) and distilled, 10,000 images.
- *sizes*: labels against distilled from 1,000 to all 55,000 training images.

A seed stands for the draw of the training images, the start and the order, the same in every arm.
Writes `recorded/students_choice.csv`, `recorded/students.csv` and, for seed 0 with all images, the two
students that the package ships.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import kdutils as kd
from kdutils.metrics import compare_logits, evaluate_logits, logits_and_labels
from kdutils.selection import choose as best
from kdutils.selection import split
from kdutils.studies import _jobs
from kdutils.studies._record import FOLDER, Record

STEPS, BATCH, IMAGES = 1_600, 128, 10_000
SEEDS, CHOICE_SEEDS = range(8), range(100, 102)
SIZES = (1_000, 3_000, 10_000, 55_000)
LEARNING_RATES = (0.05, 0.1, 0.2)
SMOOTHINGS = (0.05, 0.1, 0.2)
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
KD_WEIGHTS = (0.5, 0.9, 1.0)
ARMS = ("labels", "label smoothing", "permuted teacher", "distilled")
COMMAND = "python -m kdutils.studies.students"
ORDER = {
    "students_choice": ("stage", "temperature", "kd_weight", "lr", "smoothing", "seed"),
    "students": ("images", "arm", "seed"),
}


class Lab:
    """The data and the teacher's logits, loaded once."""

    def __init__(self) -> None:
        self.train, self.validation, self.test = split()
        teacher = kd.zoo.load("fashion_mnist/resnet14")
        self.soft = kd.teacher_logits(teacher, self.train, augment="flip")
        self.teacher_test, _ = logits_and_labels(teacher, self.test)

    def student(self, arm: str, images: int, seed: int, settings: dict[str, float]) -> torch.nn.Module:
        """Train one student of one arm."""
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:images]
        train, soft = self.train[rows], self.soft[:, rows]
        with kd.seeded(seed):
            model = kd.models.tiny_cnn()
        epochs = round(STEPS / np.ceil(images / BATCH))
        shared: dict[str, Any] = {"epochs": epochs, "augment": "flip", "seed": seed, "lr": settings["lr"]}
        if arm == "permuted teacher":
            soft = soft[:, shuffle_within_classes(train.labels, seed)]
        if arm in ("labels", "label smoothing"):
            kd.fit(model, train, label_smoothing=settings["smoothing"] if arm != "labels" else 0.0, **shared)
        else:
            weight = settings["kd_weight"]
            kd.distill(
                model,
                soft,
                train,
                temperature=settings["temperature"],
                kd_weight=weight,
                ce_weight=1 - weight,
                **shared,
            )
        return model


def shuffle_within_classes(labels: Tensor, seed: int) -> Tensor:
    """A permutation (N,) that gives every image another one of its own class."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(labels))
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        mixed = rows[torch.randperm(len(rows), generator=generator)]
        order[mixed] = mixed.roll(1)  # one cycle through the class: nobody keeps its own
    return order


def choice_runs() -> Iterator[dict[str, Any]]:
    """The runs of the first part; those of one stage need the choice of the stage before."""
    for lr in LEARNING_RATES:
        yield {"stage": "lr", "arm": "labels", "lr": lr, "smoothing": 0.0, "temperature": 0.0, "kd_weight": 0.0}
    for smoothing in SMOOTHINGS:
        yield {"stage": "smoothing", "arm": "label smoothing", "smoothing": smoothing} | {
            "temperature": 0.0, "kd_weight": 0.0
        }  # fmt: skip
    for temperature in TEMPERATURES:
        for weight in KD_WEIGHTS:
            yield {"stage": "grid", "arm": "distilled", "smoothing": 0.0} | {
                "temperature": temperature, "kd_weight": weight
            }  # fmt: skip


def chosen(stage: str, column: str) -> float:
    """The value of `column` with the best mean validation accuracy in a stage; the smaller one if equal."""
    table = pd.read_csv(FOLDER / "students_choice.csv").query("stage == @stage")
    return float(best(table, by=["temperature", "kd_weight"] if stage == "grid" else column)[column])


def settings() -> dict[str, float]:
    """Everything that was chosen on the validation images."""
    return {
        "lr": chosen("lr", "lr"),
        "smoothing": chosen("smoothing", "smoothing"),
        "temperature": chosen("grid", "temperature"),
        "kd_weight": chosen("grid", "kd_weight"),
    }


def choose(lab: Lab, stage: str, run: dict[str, Any], seed: int) -> None:
    """One run of the first part."""
    record = Record("students_choice", keys=("stage", "lr", "smoothing", "temperature", "kd_weight", "seed"))
    row = {"lr": chosen("lr", "lr") if stage != "lr" else 0.0} | run | {"seed": seed}
    row = {key: row[key] for key in ("stage", "arm", "lr", "smoothing", "temperature", "kd_weight", "seed")}
    if not record.has(**row):
        model = lab.student(row["arm"], IMAGES, seed, row)
        found = evaluate_logits(*logits_and_labels(model, lab.validation))
        record.add(**row, val_accuracy=found["accuracy"], val_nll=found["nll"], n=found["n"])


def measure(lab: Lab, arm: str, images: int, seed: int) -> None:
    """One run of the second or third part."""
    record = Record("students", keys=("arm", "images", "seed"))
    if record.has(arm=arm, images=images, seed=seed):
        return
    model = lab.student(arm, images, seed, settings())
    logits, labels = logits_and_labels(model, lab.test)
    found, near = evaluate_logits(logits, labels), compare_logits(logits, lab.teacher_test, labels)
    kept = {key: near[key] for key in ("agreement", "agreement_on_teacher_errors", "agreement_on_teacher_hits", "kl")}
    names = {"labels": "fashion_mnist/tiny_cnn", "distilled": "fashion_mnist/tiny_cnn_distilled"}
    if images == max(SIZES) and seed == 0 and arm in names:
        data = f"Fashion-MNIST, {images} training images, about {STEPS} steps of {BATCH}"
        facts = {"command": COMMAND, "seed": seed, "arm": arm, "data": data, "test_accuracy": found["accuracy"]}
        kd.zoo.save(model, names[arm], "tiny_cnn", {}, **facts)
    record.add(arm=arm, images=images, seed=seed, **found, **kept)


def tasks(part: str) -> list[Callable[[Lab], None]]:
    """The runs of a part; each is independent of the others, and needs only the parts before."""
    if part in ("lr", "smoothing", "grid"):
        runs = [run for run in choice_runs() if run["stage"] == part]
        return [partial(choose, stage=part, run=run, seed=seed) for seed in CHOICE_SEEDS for run in runs]
    arms, sizes = (ARMS, (IMAGES,)) if part == "arms" else (("labels", "distilled"), SIZES)
    return [partial(measure, arm=a, images=n, seed=seed) for seed in SEEDS for n in sizes for a in arms]


def main() -> None:
    """Run what is not recorded yet."""
    jobs, lab = _jobs.jobs(__doc__), Lab()
    for part in ("lr", "smoothing", "grid", "arms", "sizes"):
        _jobs.spread(lambda task: task(lab), tasks(part), jobs)
    facts = {"student": "tiny_cnn()", "teacher": kd.zoo.card("fashion_mnist/resnet14")["sha256"], "steps": STEPS}
    for name, columns in ORDER.items():
        Record(name, keys=()).finish(columns, **facts, batch=BATCH, chosen=settings())


if __name__ == "__main__":
    main()
