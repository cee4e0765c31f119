"""Can the explanation itself be taught, and what does it cost?

    python -m kdutils.studies.guided

Every run trains `tiny_cnn()` on the same 5,000 images by plain distillation from the shipped ResNet-14, plus one term,
and is measured after the last step. Temperature, learning rate (halved, as the batch is) and
kd_weight are those that `kdutils.studies.students` chose. A seed stands for the start and the order, the images are one
fixed draw: so the teacher is asked once for everything, and no image is augmented. The terms that need a gradient of a
gradient explain 16 of the 64 images of a step. Two parts:

- *choice*: the weight of each method's term by validation accuracy, two other seeds, half the steps. How near the maps
  come is written down beside it, on 100 validation images, and chooses nothing. (The three weights to choose from were
  set after a look at shorter runs, on validation images too.)
- *contest*: every method with its weight; its controls: no term ("plain KD"), plain KD for twice the steps, and the
  same terms with the map of another image ("shuffled") or of another class ("wrong class").

Declared before the contest: the primary comparisons are "e2KD", "Jacobian" and "IG path" against "plain KD", in
accuracy and in the specificity of the agreement on occlusion, an explainer that none of them trains; six in all.
Writes `recorded/guided_choice.csv` and `recorded/guided.csv`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kdutils as kd
from kdutils import explain, guided, losses
from kdutils.data import ImageSet
from kdutils.metrics import compare_logits, evaluate_logits, logits_and_labels
from kdutils.studies import _jobs, students
from kdutils.studies._record import FOLDER, Record

EPOCHS, CHOICE_EPOCHS, BATCH, IMAGES, EXPLAINED = 4, 2, 64, 5_000, 16
SEEDS, CHOICE_SEEDS = range(8), range(100, 102)
MAPPED, SHIFTED, POINTS, NOISE = {"validation": 100, "test": 300}, 2_000, 2, 0.3
PLAIN, LONGER = "plain KD", "plain KD, twice the steps"
WEIGHTS = {
    "AT": (3.0, 30.0, 300.0),
    "CAT": (0.3, 3.0, 30.0),
    "e2KD": (0.3, 1.0, 5.0),
    "Jacobian": (5.0, 25.0, 100.0),
    "input noise": (0.1, 0.3, 1.0),
    "IG path": (5.0, 25.0, 100.0),
}
CONTROLS = {f"{method}, {what}": method for method in ("e2KD", "Jacobian") for what in ("shuffled", "wrong class")}
STORED = {  # what each term needs of the teacher, beside its logits
    "AT": "stage3",
    "CAT": "stage3",
    "e2KD": "cam",
    "Jacobian": "jacobian",
    "input noise": "noisy",
    "IG path": "path",
}
ARMS = (PLAIN, *WEIGHTS, *CONTROLS, LONGER)
PRIMARY = [(arm, score) for arm in ("e2KD", "Jacobian", "IG path") for score in ("accuracy", "occlusion_specificity")]
EXPLAINERS: dict[str, dict[str, Any]] = {
    "grad_cam": {},
    "smoothgrad": {"samples": 8},
    "integrated_gradients": {"steps": 8},
    "occlusion": {"window": 4, "stride": 4},
}
TRAINED = {"e2KD": "grad_cam", "Jacobian": "smoothgrad", "IG path": "integrated_gradients"}  # what each is nearest to


class Lab:
    """The data, what the teacher says of it, and its maps: all computed once."""

    def __init__(self) -> None:
        everything, self.validation, self.test = kd.selection.split()
        self.teacher = kd.zoo.load("fashion_mnist/resnet14")
        self.settings = students.settings()
        self.prepare(everything.subset(IMAGES, 0))

    def prepare(self, train: ImageSet) -> None:
        """Ask the teacher about the training images and the measured ones."""
        self.train = train
        self.outputs = kd.teacher_outputs(self.teacher, train, ["stage3"])
        cam = partial(guided.grad_cam, layer="stage3")
        self.outputs["cam"] = guided.teacher_maps(self.teacher, train, cam)
        self.outputs["jacobian"] = guided.teacher_maps(self.teacher, train, guided.input_gradient)
        at = [partial(guided.path_gradient, where=(p + 0.5) / POINTS) for p in range(POINTS)]
        self.outputs["path"] = torch.stack([guided.teacher_maps(self.teacher, train, each) for each in at], 2)
        # The controls: a fixed other image's map; the map of a class drawn from the nine others.
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(train), generator=generator)
        other = torch.empty_like(order).scatter_(0, order, order.roll(1))
        first = self.outputs["logits"][0].argmax(1)
        wrong = (first + torch.randint(1, 10, (len(train),), generator=generator)) % 10
        for name, explanation in (("cam", cam), ("jacobian", guided.input_gradient)):
            self.outputs[f"{name}, shuffled"] = self.outputs[name][:, other]
            maps = guided.teacher_maps(self.teacher, train, explanation, targets=wrong)
            self.outputs[f"{name}, wrong class"] = maps
        # Two noisy copies of each image and the teacher's answer to them, side by side.
        images = train.tensors()[0]
        noisy = images + NOISE * torch.randn(2, *images.shape, generator=generator)
        answers = torch.stack([kd.predict(self.teacher, each) for each in noisy])
        self.outputs["noisy"] = torch.cat([noisy.flatten(2), answers], 2).transpose(0, 1)[None]
        self.teacher_test, _ = logits_and_labels(self.teacher, self.test)
        self.theirs = {part: self.maps(self.teacher, part) for part in MAPPED}
        self.shifted = shifts(self.test[:SHIFTED])

    def maps(self, model: nn.Module, part: str) -> dict[str, Tensor]:
        """The model's maps of the first validation or test images for the teacher's class, by explainer."""
        inputs, _ = getattr(self, part)[: MAPPED[part]].tensors()
        targets = kd.predict(self.teacher, inputs).argmax(1)
        return {name: explain.attribute(model, inputs, targets, name, **o) for name, o in EXPLAINERS.items()}

    def agreement(self, model: nn.Module, part: str) -> dict[str, float]:
        """How near the maps are to the teacher's, and how much nearer than to those of other images."""
        found: dict[str, float] = {}
        theirs = self.theirs[part]
        for name, maps in self.maps(model, part).items():
            own = explain.map_agreement(maps, theirs[name], "cosine").mean()
            other = explain.map_agreement(maps, theirs[name].roll(1, 0), "cosine").mean()
            found |= {f"{name}_cosine": float(own), f"{name}_specificity": float(own - other)}
        return found

    def student(self, arm: str, weight: float, seed: int, epochs: int) -> tuple[nn.Module, float]:
        """Train one student; gives it and the processor's seconds, without those of the teacher."""
        with kd.seeded(seed):
            model = kd.models.tiny_cnn()
        start = time.process_time()
        kd.distill(
            model,
            {name: self.outputs[name] for name in ("logits", *self.stored(arm))},
            self.train,
            epochs=2 * epochs if arm == LONGER else epochs,
            temperature=self.settings["temperature"],
            kd_weight=self.settings["kd_weight"],
            ce_weight=1 - self.settings["kd_weight"],
            terms=self.terms(arm, weight, model),
            augment=False,
            batch_size=BATCH,
            seed=seed,
            lr=self.settings["lr"] * BATCH / 128,  # chosen for batches of 128
        )
        return model, time.process_time() - start

    def stored(self, arm: str) -> list[str]:
        """Which of the teacher's outputs an arm's term needs, beside the logits."""
        method, _, what = arm.partition(", ")
        name = STORED.get(method)
        return [f"{name}, {what}" if what else name] if name else []

    def terms(self, arm: str, weight: float, student: nn.Module) -> list[kd.Term]:
        """The extra term of an arm."""
        if arm in (PLAIN, LONGER):
            return []
        if arm == "AT":
            return [kd.Term("attention", losses.attention_transfer_loss, weight, "8", "stage3")]
        if arm == "CAT":
            head, teacher_head = student.get_submodule("11"), self.teacher.get_submodule("head")
            assert isinstance(head, nn.Linear) and isinstance(teacher_head, nn.Linear)

            def class_maps(ours: Tensor, theirs: Tensor) -> Tensor:
                return losses.class_map_loss(guided.class_maps(ours, head), guided.class_maps(theirs, teacher_head))

            return [kd.Term("class_maps", class_maps, weight, "8", "stage3")]
        if arm == "input noise":
            return [kd.Term("noise", partial(_stored_noise, self.settings["temperature"]), weight, step=True)]
        (stored,) = self.stored(arm)
        if arm == "IG path":
            return [kd.Term("path", guided.path_matching(stored=stored, images=EXPLAINED), weight, step=True)]
        explanation = partial(guided.grad_cam, layer="8") if arm.startswith("e2KD") else guided.input_gradient
        return [kd.Term("map", guided.matching(explanation, stored=stored, images=EXPLAINED), weight, step=True)]


def _stored_noise(temperature: float, step: kd.Step) -> Tensor:
    """:func:`kdutils.guided.input_noise` for one of the stored noisy copies of each image."""
    n = len(step.inputs)
    copy = step.outputs["noisy"][torch.arange(n), torch.randint(2, (n,))]
    with guided.same_statistics(step.student):
        noisy = step.student(copy[:, :-10].reshape(step.inputs.shape))
    return losses.kd_loss(noisy, copy[:, -10:], temperature)


def shifts(images: ImageSet) -> dict[str, ImageSet]:
    """The same images, changed as no training image was: noise, moved by three pixels, less contrast."""
    generator = torch.Generator().manual_seed(0)
    pixels = images.images.float()
    noisy = pixels + 40 * torch.randn(pixels.shape, generator=generator)
    moved = torch.zeros_like(pixels)
    padded = F.pad(pixels, (3, 3, 3, 3))
    where = torch.randint(4, (len(images),), generator=generator)
    for k, (down, right) in enumerate(((0, 3), (6, 3), (3, 0), (3, 6))):
        moved[where == k] = padded[where == k, :, down : down + 28, right : right + 28]
    changed = {"noise": noisy, "moved": moved, "contrast": 0.4 * pixels}
    return {name: replace(images, images=x.round().clamp(0, 255).to(torch.uint8)) for name, x in changed.items()}


def chosen(arm: str) -> float:
    """The weight with the best mean validation accuracy; a control has its method's, plain distillation none."""
    if arm in (PLAIN, LONGER):
        return 0.0
    table = pd.read_csv(FOLDER / "guided_choice.csv")
    table = table[table["arm"] == CONTROLS.get(arm, arm)]
    return float(kd.selection.choose(table, by="weight")["weight"])


def choice(lab: Lab, seed: int) -> None:
    """The first part for one seed."""
    record = Record("guided_choice", keys=("arm", "weight", "seed"))
    for arm, weights in {PLAIN: (0.0,), **WEIGHTS}.items():
        for weight in weights:
            if not record.has(arm=arm, weight=weight, seed=seed):
                model, _ = lab.student(arm, weight, seed, CHOICE_EPOCHS)
                found = evaluate_logits(*logits_and_labels(model, lab.validation))
                scores = {"val_accuracy": found["accuracy"], "n": found["n"], **lab.agreement(model, "validation")}
                record.add(arm=arm, weight=weight, seed=seed, **scores)


def contest(lab: Lab, seed: int) -> None:
    """The second part for one seed."""
    record = Record("guided", keys=("arm", "seed"))
    for arm in ARMS:
        if record.has(arm=arm, seed=seed):
            continue
        weight = chosen(arm)
        model, seconds = lab.student(arm, weight, seed, EPOCHS)
        logits, labels = logits_and_labels(model, lab.test)
        found, near = evaluate_logits(logits, labels), compare_logits(logits, lab.teacher_test, labels)
        kept = {key: near[key] for key in ("agreement", "kl")}
        outside = {f"{name}_accuracy": kd.evaluate(model, each)["accuracy"] for name, each in lab.shifted.items()}
        maps = lab.agreement(model, "test")
        record.add(arm=arm, weight=weight, seed=seed, **found, **kept, **outside, **maps, cpu_seconds=seconds)


def main() -> None:
    """Run what is not recorded yet."""
    jobs, lab = _jobs.jobs(__doc__), Lab()
    for part, seeds in ((choice, CHOICE_SEEDS), (contest, SEEDS)):
        _jobs.spread(partial(part, lab), seeds, jobs)
    steps = EPOCHS * int(np.ceil(IMAGES / BATCH))
    facts = {"student": "tiny_cnn()", "teacher": kd.zoo.card("fashion_mnist/resnet14")["sha256"], "images": IMAGES}
    settings = {"steps": steps, "choice_steps": steps * CHOICE_EPOCHS // EPOCHS, "batch": BATCH, "mapped": MAPPED}
    more = {"explained": EXPLAINED, "shifted": SHIFTED, "noise": NOISE, "primary": [list(each) for each in PRIMARY]}
    for name, columns in (("guided_choice", ("arm", "weight", "seed")), ("guided", ("arm", "seed"))):
        Record(name, keys=()).finish(columns, **facts, **settings, **more, chosen=students.settings())


if __name__ == "__main__":
    main()
