"""How many augmented views must a store of teacher logits hold, and what does each cost?

    python -m kdutils.studies.views

Beyer et al. 2022 (arXiv:2106.05237) let the teacher answer anew for every crop. Here `tiny_cnn()` learns from the
shipped ResNet-14 on 1,000 flipped and shifted images, for 32 epochs: from labels alone, from stores of 1, 4 and 16
views (epoch e shows view e mod K, in single precision, so that nothing else differs), and from the live teacher. A
store of K views is the first K views of one of 16. Temperature, learning rate and kd_weight are those that
`kdutils.studies.students` chose on validation images; what is compared here is declared, not chosen. The primary
comparison: 16 views against live, on test images after the last step. A seed stands for the draw of the images, the
start and the order, the same in every arm. Processor seconds: of the teacher's answers for one student, and of the
student's own training.
Writes `recorded/views.csv`.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import partial
from typing import Any

import kdutils as kd
from kdutils.metrics import compare_logits, evaluate_logits, logits_and_labels
from kdutils.studies import _jobs, students
from kdutils.studies._record import Record

IMAGES, EPOCHS, BATCH, SEEDS, MOST = 1_000, 32, 64, range(5), 16
ARMS = ("labels", "1", "4", "16", "live")


class Lab:
    """The data, the teacher and the settings, loaded once."""

    def __init__(self) -> None:
        self.everything, _, self.test = kd.selection.split()
        self.teacher = kd.zoo.load("fashion_mnist/resnet14")
        self.teacher_test, _ = logits_and_labels(self.teacher, self.test)
        self.settings = students.settings()

    def one_seed(self, seed: int) -> None:
        """All arms of one seed."""
        record = Record("views", keys=("arm", "seed"))
        if all(record.has(arm=arm, seed=seed) for arm in ARMS):
            return
        train = self.everything.subset(IMAGES, seed)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            options: dict[str, Any] = {"views": MOST, "seed": seed, "precision": "single"}
            whole = kd.store.fill(folder, self.teacher, train, **options)
            view_seconds = (time.process_time() - start) / MOST
            for arm in ARMS:
                if not record.has(arm=arm, seed=seed):
                    record.add(arm=arm, seed=seed, **self.run(arm, seed, train, whole, view_seconds))

    def run(
        self, arm: str, seed: int, train: kd.data.ImageSet, whole: kd.store.LogitStore, view_seconds: float
    ) -> dict[str, Any]:
        """Train one student; gives what is recorded of it."""
        with kd.seeded(seed):
            student = kd.models.tiny_cnn()
        shared: dict[str, Any] = {
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "augment": True,
            "seed": seed,
            "lr": self.settings["lr"],
        }
        weight = self.settings["kd_weight"]
        mixed = {"temperature": self.settings["temperature"], "kd_weight": weight, "ce_weight": 1 - weight, **shared}
        start = time.process_time()
        if arm == "labels":
            kd.fit(student, train, **shared)
        elif arm == "live":
            kd.distill(student, self.teacher, train, **mixed)
        else:
            store = replace(whole, facts=whole.facts | {"views": int(arm)})
            kd.distill(student, store, train, **mixed)
        seconds = time.process_time() - start
        stored = int(arm) if arm.isdigit() else 0
        logits, labels = logits_and_labels(student, self.test)
        near = compare_logits(logits, self.teacher_test, labels)
        return {
            **evaluate_logits(logits, labels), "agreement": near["agreement"], "train_seconds": seconds,
            "fill_seconds": stored * view_seconds, "answers": (stored or EPOCHS * (arm == "live")) * IMAGES,
        }  # fmt: skip


def main() -> None:
    """Run what is not recorded yet."""
    jobs, lab = _jobs.jobs(__doc__), Lab()
    _jobs.spread(partial(Lab.one_seed, lab), SEEDS, jobs)
    facts = {"student": "tiny_cnn()", "teacher": kd.zoo.card("fashion_mnist/resnet14")["sha256"]}
    settings = {"images": IMAGES, "epochs": EPOCHS, "primary": ["16", "live"], "chosen": lab.settings}
    Record("views", keys=()).finish(("arm", "seed"), **facts, **settings)


if __name__ == "__main__":
    main()
