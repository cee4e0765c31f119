"""Do hints, attention, relations or a decoupled loss add anything to plain distillation?

    python -m kdutils.studies.beyond_logits

Every run trains `tiny_cnn()` for the same number of steps on 10,000 flipped images, from the shipped
ResNet-14, and is measured after the last step. Temperature, learning rate and kd_weight are those that
`kdutils.studies.students` chose on validation images. Two parts:

- *choice* (validation accuracy only; the test images are not touched, and half the steps): for every
  method the weight of its term, out of three (of DKD the weight of its second part).
- *contest*: two families. "with KD": the term is added to plain distillation, or, as DKD, takes its
  place; the control is plain distillation. "with labels": the term is added to cross-entropy, as in the
  published table; the control is cross-entropy.

The primary comparison, declared before the runs: with KD, CRD (the best of the published table) against
plain distillation. A seed stands for the draw of the training images, the start and the order.
Writes `recorded/beyond_logits_choice.csv` and `recorded/beyond_logits.csv`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

import kdutils as kd
from kdutils import losses
from kdutils.metrics import compare_logits, evaluate_logits, logits_and_labels
from kdutils.studies import _jobs, students
from kdutils.studies._record import FOLDER, Record

STEPS, CHOICE_STEPS, BATCH, IMAGES = 632, 316, 128, 10_000
SEEDS, CHOICE_SEEDS = range(8), range(100, 102)
LAYERS = ("stage2", "stage3", "pool")
WITH_KD, WITH_LABELS = "with KD", "with labels"
PRIMARY = (WITH_KD, "CRD")
WEIGHTS = {  # what the choice is made from; beside T²·KL a term needs less weight than beside cross-entropy
    WITH_KD: {
        "FitNets": (0.01, 0.1, 1.0),
        "AT": (3.0, 30.0, 300.0),
        "SP": (3.0, 30.0, 300.0),
        "RKD": (0.03, 0.3, 3.0),
        "CRD": (0.01, 0.1, 1.0),
        "DKD": (0.5, 1.0, 4.0),
    },
    WITH_LABELS: {
        "FitNets": (0.1, 1.0, 10.0),
        "AT": (30.0, 300.0, 3000.0),
        "SP": (30.0, 300.0, 3000.0),
        "RKD": (0.1, 1.0, 10.0),
        "CRD": (0.03, 0.3, 3.0),
        "DIST": (0.3, 1.0, 3.0),
    },
}


def terms(method: str, weight: float, temperature: float) -> list[kd.Term]:
    """The extra terms of a method, on the layers of `tiny_cnn` and `resnet` that have the same height and width."""
    if method == "none":
        return []
    if method == "FitNets":
        return [kd.Term("hint", losses.hint_loss, weight, "8", "stage3", projector="linear")]
    if method == "AT":
        pairs = {"early": ("2", "stage2"), "late": ("8", "stage3")}
        return [kd.Term(name, losses.attention_transfer_loss, weight, *pair) for name, pair in pairs.items()]
    if method == "SP":
        return [kd.Term("similarity", losses.similarity_loss, weight, "8", "stage3")]
    if method == "RKD":
        return [
            kd.Term("distance", losses.rkd_distance_loss, weight, "9", "pool"),
            kd.Term("angle", losses.rkd_angle_loss, 2 * weight, "9", "pool"),
        ]
    if method == "CRD":
        return [kd.Term("contrast", losses.crd_loss, weight, "9", "pool", projector="linear")]
    if method == "DKD":
        loss = partial(losses.dkd_loss, temperature=temperature, target_weight=1.0, nontarget_weight=weight)
        return [kd.Term("dkd", loss, 1.0, labels=True)]
    return [kd.Term("dist", partial(losses.dist_loss, temperature=temperature), weight)]


class Lab:
    """The data, and for one seed its images and the teacher's outputs for them."""

    def __init__(self) -> None:
        self.everything, self.validation, self.test = kd.selection.split()
        self.teacher = kd.zoo.load("fashion_mnist/resnet14")
        self.teacher_test, _ = logits_and_labels(self.teacher, self.test)
        self.settings = students.settings()
        self.seed: int | None = None

    def open(self, seed: int) -> None:
        """Draw the seed's images and ask the teacher about them once."""
        if seed != self.seed:
            self.train = self.everything.subset(IMAGES, seed)
            self.outputs = kd.teacher_outputs(self.teacher, self.train, LAYERS, augment="flip")
            self.seed = seed

    def student(self, family: str, method: str, weight: float, seed: int, steps: int) -> tuple[nn.Module, float]:
        """Train one student; gives it and the processor's seconds."""
        self.open(seed)
        with kd.seeded(seed):
            model = kd.models.tiny_cnn()
        kd_weight = self.settings["kd_weight"] if family == WITH_KD and method != "DKD" else 0.0
        ce_weight = 1 - self.settings["kd_weight"] if family == WITH_KD else 1.0
        start = time.process_time()
        kd.distill(
            model,
            self.outputs,
            self.train,
            epochs=round(steps / np.ceil(IMAGES / BATCH)),
            temperature=self.settings["temperature"],
            kd_weight=kd_weight,
            ce_weight=ce_weight,
            terms=terms(method, weight, self.settings["temperature"]),
            augment="flip",
            seed=seed,
            lr=self.settings["lr"],
        )
        return model, time.process_time() - start


def pairs() -> list[tuple[str, str]]:
    """(family, method) of every arm; "none" is the control."""
    return [(family, method) for family, methods in WEIGHTS.items() for method in ("none", *methods)]


def chosen(family: str, method: str) -> float:
    """The weight with the best mean validation accuracy; 0 for the control."""
    if method == "none":
        return 0.0
    table = pd.read_csv(FOLDER / "beyond_logits_choice.csv")
    table = table[(table["family"] == family) & (table["method"] == method)]
    return float(kd.selection.choose(table, by="weight")["weight"])


def choice(lab: Lab, seed: int) -> None:
    """The first part for one seed."""
    record = Record("beyond_logits_choice", keys=("family", "method", "weight", "seed"))
    for family, method in pairs():
        for weight in WEIGHTS[family].get(method, ()):
            row: dict[str, Any] = {"family": family, "method": method, "weight": weight, "seed": seed}
            if not record.has(**row):
                model, _ = lab.student(family, method, weight, seed, CHOICE_STEPS)
                found = evaluate_logits(*logits_and_labels(model, lab.validation))
                record.add(**row, val_accuracy=found["accuracy"], val_nll=found["nll"], n=found["n"])


def contest(lab: Lab, seed: int) -> None:
    """The second part for one seed."""
    record = Record("beyond_logits", keys=("family", "method", "seed"))
    for family, method in pairs():
        if record.has(family=family, method=method, seed=seed):
            continue
        weight = chosen(family, method)
        model, seconds = lab.student(family, method, weight, seed, STEPS)
        logits, labels = logits_and_labels(model, lab.test)
        found, near = evaluate_logits(logits, labels), compare_logits(logits, lab.teacher_test, labels)
        kept = {key: near[key] for key in ("agreement", "kl")}
        record.add(
            family=family, method=method, weight=weight, seed=seed, **found, **kept, cpu_seconds=seconds
        )  # fmt: skip


def main() -> None:
    """Run what is not recorded yet."""
    jobs, lab = _jobs.jobs(__doc__), Lab()
    for part, seeds in ((choice, CHOICE_SEEDS), (contest, SEEDS)):
        _jobs.spread(partial(part, lab), seeds, jobs)
    facts = {"student": "tiny_cnn()", "teacher": kd.zoo.card("fashion_mnist/resnet14")["sha256"], "images": IMAGES}
    settings = {"steps": STEPS, "choice_steps": CHOICE_STEPS, "batch": BATCH, "primary": list(PRIMARY)}
    for name, key in (("beyond_logits_choice", "weight"), ("beyond_logits", "method")):
        columns = ("family", "method", key, "seed")
        Record(name, keys=()).finish(columns, **facts, **settings, chosen=students.settings())


if __name__ == "__main__":
    main()
