"""Does a distilled student explain itself like its teacher, and is that more than its better accuracy?

    python -m kdutils.studies.agreement

The student is `tiny_cnn()`, trained on 10,000 images for about 790 steps with the settings that the study of
:mod:`kdutils.studies.students` chose on validation images. Two teachers, two fixed cases: ResNet-14 and its twin
from another seed. A seed stands for the draw of the training images, the start and the order, the same in every arm.

*Arms.* "labels" and "label smoothing" have no teacher. "distilled" is plain distillation. The headline compares
students of equal accuracy: "distilled, matched" has as few epochs as it takes a distilled student to be as accurate
as one of "labels", and "labels, matched" as many as it takes one without a teacher to be as accurate as one
of "distilled"; both numbers are those whose mean validation accuracy comes nearest. Controls: "permuted
teacher" (the soft label of another image of the class) and "noise teacher" (an untrained ResNet-14; half of the loss
are labels, since without them nothing is learned). Floors: "untrained", and maps that know no network: "edges",
"centre blob", and "mean map", the teacher's own map averaged over all images. Ceilings: "twin", the other teacher,
and "teacher again", the same teacher explained with another seed of the explainer.

*Measured*, for the class that the teacher names, on `SAMPLE` test images drawn once: agreement of maps, and the same
with the teacher's map of another image (`_other`), which holds what all maps have in common; how many maps are flat;
how often a student's map is nearer to the teacher's than that of an independent student of the next seed; what is left
of a probability (area under the deletion curve) when pixels go in the order of the network's own map, of the other
network's, and at random.

1. *choice*: numbers of epochs (validation accuracy only).
2. *pilot*: the seeds of the choice, on validation images, for the spread of the differences: what can eight seeds see?
3. *study*: everything else, on the test images.

`PRIMARY` was declared before the third part ran; everything else is exploratory. Trained networks and the teachers'
maps are kept in the cache folder, so that a study that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils import _base, _checkpoint, explain
from kdutils.metrics import compare_logits, evaluate_logits, logits_and_labels
from kdutils.selection import split
from kdutils.studies import _jobs, _record, students

TEACHERS = {"first": "fashion_mnist/resnet14", "second": "fashion_mnist/resnet14_twin"}
EXPLAINERS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 16},
    "grad_cam": {},
    "smoothgrad": {},
    "occlusion": {"window": 4, "stride": 4},
}
# Six for each teacher, always the difference "distilled, matched" − "labels", paired by seed: for each explainer how
# specifically the maps agree (cosine − cosine_other); for integrated gradients how much of what the student's own
# order of pixels does to it the teacher's order does; and how often the two name the same class.
PRIMARY = (*EXPLAINERS, "own_order", "top1_agreement")
IMAGES, EPOCHS, BATCH = 10_000, 10, 128
SEEDS, CHOICE_SEEDS = range(8), range(100, 103)
SHORTER = (3, 4, 5, 6, 7, 8)
LONGER = (12, 14, 17, 20)
SAMPLE, PROBED, STEPS = 300, 60, 14  # images explained; of these, those that the teacher is asked about; curve steps
ARMS = (  # what the headline needs comes first
    *("labels", "distilled, matched", "distilled", "labels, matched"),
    *("permuted teacher", "label smoothing", "noise teacher", "untrained"),
)
FIXED = ("twin", "teacher again", "edges", "centre blob", "mean map")  # no student, hence no seeds
FOLDER = _record.FOLDER
CHOICE = "agreement_choice"
FILES = {  # of the networks and of their maps
    "validation": ("agreement_pilot_models", "agreement_pilot"),
    "test": ("agreement_models", "agreement"),
}
KEYS = ("arm", "teacher", "seed")
MAP_KEYS = (*KEYS, "explainer")


def record(name: str, keys: tuple[str, ...]) -> _record.Record:
    """One of the study's files."""
    return _record.Record(name, keys, FOLDER)


@dataclass(frozen=True)
class Case:
    """Images (N, C, H, W), their labels, the classes that a teacher names, and its maps (N, H, W) by explainer."""

    part: str
    teacher: str
    images: Tensor
    labels: Tensor
    targets: Tensor
    maps: dict[str, Tensor]


class Lab:
    """The data, the teachers and what they say."""

    def __init__(self) -> None:
        self.train, self.validation, self.test = split()
        self.teachers = {name: kd.zoo.load(path) for name, path in TEACHERS.items()}
        self.digests = {name: _checkpoint.digest(model.state_dict()) for name, model in self.teachers.items()}
        self.settings = students.settings()

    def soft(self, teacher: str) -> Tensor:
        """The soft labels of all training images, as they are and mirrored: (2, N, K)."""

        def logits() -> dict[str, Tensor]:
            model = self.teachers.get(teacher)
            if model is None:
                with kd.seeded(0):
                    model = kd.models.resnet(14).eval()
            return {"logits": kd.teacher_logits(model, self.train, augment="flip")}

        found = kept({"logits of": self.digests.get(teacher, teacher), "images": len(self.train)}, logits)["logits"]
        if teacher in self.teachers:
            return found
        return (found - found.mean((0, 1))) / found.std((0, 1)) * self.soft("first").std()  # as loud as a teacher

    def part(self, part: str) -> kd.data.ImageSet:
        """The validation or the test images."""
        return self.validation if part == "validation" else self.test

    def answers(self, part: str, teacher: str) -> Tensor:
        """The logits of a teacher for a whole part of the data."""
        facts = {"logits of": self.digests[teacher], "part": part}
        return kept(facts, lambda: {"logits": logits_and_labels(self.teachers[teacher], self.part(part))[0]})["logits"]

    def case(self, part: str, teacher: str) -> Case:
        """What is explained, and how the teacher explains it."""
        images, labels = self.part(part).subset(SAMPLE, seed=0).tensors()
        model = self.teachers[teacher]
        targets = kd.predict(model, images).argmax(1)
        facts = {"maps of": self.digests[teacher], "part": part, "sample": SAMPLE, "explainers": EXPLAINERS}
        return Case(part, teacher, images, labels, targets, kept(facts, lambda: maps_of(model, images, targets)))

    def student(self, arm: str, teacher: str, seed: int, images: int = IMAGES, epochs: int = EPOCHS) -> nn.Module:
        """One student, trained or taken from the cache."""
        base = arm.split(",")[0]
        with kd.seeded(seed):
            model = kd.models.tiny_cnn()
        if base == "untrained":
            return model.eval()
        recipe = {"arm": base, "seed": seed, "images": images, "epochs": epochs, "settings": self.settings}
        if base in ("distilled", "permuted teacher"):
            recipe["teacher"] = self.digests[teacher]

        def trained() -> dict[str, Tensor]:
            self._train(model, base, teacher, seed, images, epochs)
            return model.state_dict()

        model.load_state_dict(kept(recipe, trained))
        return model.eval()

    def _train(self, model: nn.Module, arm: str, teacher: str, seed: int, images: int, epochs: int) -> None:
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:images]
        train, chosen = self.train[rows], self.settings
        shared: dict[str, Any] = {"epochs": epochs, "augment": "flip", "seed": seed, "lr": chosen["lr"]}
        if arm.startswith("label"):
            smoothing = chosen["smoothing"] if arm == "label smoothing" else 0.0
            kd.fit(model, train, label_smoothing=smoothing, progress=False, **shared)
            return
        soft = self.soft("noise" if arm == "noise teacher" else teacher)[:, rows]
        weight = 0.5 if arm == "noise teacher" else chosen["kd_weight"]
        if arm == "permuted teacher":
            soft = soft[:, students.shuffle_within_classes(train.labels, seed)]
        shared |= {"temperature": chosen["temperature"], "kd_weight": weight, "ce_weight": 1 - weight}
        kd.distill(model, soft, train, progress=False, **shared)


def kept(facts: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives, from the cache folder if it is there; `facts` is all that it depends on."""
    folder = _base.cache_folder() / "studies" / "agreement"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:24]}.safetensors"
    if not path.exists():
        _checkpoint.write(path, make(), {"of": repr(facts)})
    return _checkpoint.read(path)[0]


def maps_of(model: nn.Module, images: Tensor, targets: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """The maps of every explainer."""
    return {name: explain.attribute(model, images, targets, name, seed, **o) for name, o in EXPLAINERS.items()}


def nearest(arm: str, to: str, teacher: str) -> int:
    """The number of epochs at which the mean validation accuracy of `arm` comes nearest to that of arm `to`."""
    table = pd.read_csv(FOLDER / f"{CHOICE}.csv")
    table = table[table.teacher.isin([teacher, "none"])]
    means = table[table.arm == arm].groupby("epochs").val_accuracy.mean()
    return int((means - table[table.arm == to].val_accuracy.mean()).abs().idxmin())


def size(arm: str, teacher: str) -> dict[str, int]:
    """With how many images and epochs the networks of an arm are trained."""
    if arm == "twin":
        return {"images": 55_000, "epochs": 15}
    epochs = EPOCHS
    if arm == "distilled, matched":
        epochs = nearest("distilled, shorter", "labels", teacher)
    elif arm == "labels, matched":
        epochs = nearest("labels, longer", "distilled", teacher)
    return {"images": IMAGES, "epochs": 0 if arm == "untrained" else epochs}


def choose(lab: Lab, arm: str, teacher: str, seed: int, epochs: int) -> None:
    """One run of the first part."""
    rows = record(CHOICE, (*KEYS, "epochs"))
    run: dict[str, Any] = {"arm": arm, "teacher": teacher, "seed": seed, "epochs": epochs}
    if not rows.has(**run):
        trained = lab.student(arm, teacher, seed, IMAGES, epochs)
        found = evaluate_logits(*logits_and_labels(trained, lab.validation))
        rows.add(**run, val_accuracy=found["accuracy"], n=found["n"])


def choices() -> list[dict[str, Any]]:
    """The runs of the first part."""
    runs: list[dict[str, Any]] = [{"arm": "labels", "teacher": "none", "epochs": EPOCHS}]
    runs += [{"arm": "labels, longer", "teacher": "none", "epochs": epochs} for epochs in LONGER]
    for teacher in TEACHERS:
        runs.append({"arm": "distilled", "teacher": teacher, "epochs": EPOCHS})
        runs += [{"arm": "distilled, shorter", "teacher": teacher, "epochs": epochs} for epochs in SHORTER]
    return [{**run, "seed": seed} for seed in CHOICE_SEEDS for run in runs]


def measure(lab: Lab, arm: str, teacher: str, seed: int, part: str = "test") -> None:
    """One network of the second or third part: what it says, and how it explains itself."""
    models, maps = (record(name, keys) for name, keys in zip(FILES[part], (KEYS, MAP_KEYS), strict=True))
    keys: dict[str, Any] = {"arm": arm, "teacher": teacher, "seed": seed}
    speaks = arm == "twin" or arm not in FIXED
    missing = [name for name in EXPLAINERS if not maps.has(**keys, explainer=name)]
    if not missing and (models.has(**keys) or not speaks):
        return
    model = network(lab, arm, teacher, seed)
    if model is not None and speaks and not models.has(**keys):
        logits, labels = logits_and_labels(model, lab.part(part))
        near = compare_logits(logits, lab.answers(part, teacher), labels)
        models.add(**keys, **size(arm, teacher), **(near | evaluate_logits(logits, labels)))
    case = lab.case(part, teacher)
    if model is None:
        ours = {name: blank(arm, case.images, maps) for name, maps in case.maps.items()}
    else:
        ours = maps_of(model, case.images, case.targets, seed=1 if arm == "teacher again" else 0)
    rivals = rival_cosines(lab, case, seed)
    for name in missing:
        maps.add(**keys, explainer=name, **compared(lab, case, name, model, ours[name], rivals[name]))


def network(lab: Lab, arm: str, teacher: str, seed: int) -> nn.Module | None:
    """The network of an arm, if it has one."""
    if arm == "twin":
        return next(model for name, model in lab.teachers.items() if name != teacher)
    if arm == "teacher again":
        return lab.teachers[teacher]
    return None if arm in FIXED else lab.student(arm, teacher, seed, **size(arm, teacher))


def compared(
    lab: Lab, case: Case, explainer: str, model: nn.Module | None, ours: Tensor, rivals: Tensor
) -> dict[str, float]:
    """Every number of `recorded/agreement.csv` for one network and one explainer."""
    theirs = case.maps[explainer]
    other = theirs.roll(1, 0)  # the sample is in random order
    found: dict[str, float] = {}
    for measure in explain.MEASURES:
        found[measure] = float(explain.map_agreement(ours, theirs, measure).mean())
        found[f"{measure}_other"] = float(explain.map_agreement(ours, other, measure).mean())
    found["absolute"] = float(explain.map_agreement(ours.abs(), theirs.abs(), "spearman").mean())
    found["absolute_other"] = float(explain.map_agreement(ours.abs(), other.abs(), "spearman").mean())
    cosine = explain.map_agreement(ours, theirs, "cosine")
    right = case.targets == case.labels
    if model is not None:
        right &= kd.predict(model, case.images).argmax(1) == case.labels
    found |= {"both_right": float(right.double().mean()), "cosine_both_right": float(cosine[right].mean())}
    found["cosine_not_both_right"] = float(cosine[~right].mean())
    found |= {"flat": int(explain.is_flat(ours).sum()), "teacher_flat": int(explain.is_flat(theirs).sum())}
    found["wins"] = float(((cosine > rivals).double() + (cosine == rivals).double() / 2).mean())
    return found | curves(model, lab.teachers[case.teacher], case, ours, theirs)


def curves(model: nn.Module | None, teacher: nn.Module, case: Case, ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Areas under deletion curves: whose probability, in the order of whose map.

    The teacher is asked about the first `PROBED` images only; what its own order leaves stands under "teacher again".
    """

    def left(who: nn.Module | None, maps: Tensor) -> float:
        if who is None:
            return float("nan")
        n = PROBED if who is teacher else len(maps)
        found = explain.deletion_curve(who, case.images[:n], maps[:n], case.targets[:n], steps=STEPS)
        return float(explain.area(found).mean())

    return {
        "own_by_own": left(model, ours),
        "own_by_teacher": left(model, theirs),
        "own_by_chance": left(model, torch.zeros_like(ours)),
        "teacher_by_ours": left(teacher, ours),
    }


def blank(arm: str, images: Tensor, theirs: Tensor) -> Tensor:
    """A map that knows no student."""
    if arm == "mean map":
        return theirs.mean(0).expand_as(theirs).clone()
    return explain.edges(images) if arm == "edges" else explain.centre_blob(images)


def rival_cosines(lab: Lab, case: Case, seed: int) -> dict[str, Tensor]:
    """How near an independent student of the next seed comes to the teacher, image by image."""
    seeds = list(CHOICE_SEEDS if case.part == "validation" else SEEDS)
    rival = lab.student("labels", case.teacher, seeds[(seeds.index(seed) + 1) % len(seeds)])

    def cosines() -> dict[str, Tensor]:
        ours = maps_of(rival, case.images, case.targets)
        return {name: explain.map_agreement(ours[name], case.maps[name], "cosine") for name in EXPLAINERS}

    facts = {"cosines of": _checkpoint.digest(rival.state_dict()), "to": lab.digests[case.teacher]}
    return kept(facts | {"part": case.part, "sample": SAMPLE, "explainers": EXPLAINERS}, cosines)


def pilots() -> list[dict[str, Any]]:
    """The runs of the second part."""
    arms = ("labels", "distilled, matched")
    return [
        {"arm": a, "teacher": t, "seed": s, "part": "validation"} for s in CHOICE_SEEDS for t in TEACHERS for a in arms
    ]


def runs() -> list[dict[str, Any]]:
    """The runs of the third part."""
    fixed = [{"arm": arm, "teacher": teacher, "seed": 0} for arm in FIXED for teacher in TEACHERS]
    return fixed + [{"arm": arm, "teacher": teacher, "seed": s} for arm in ARMS for s in SEEDS for teacher in TEACHERS]


def main() -> None:
    """Run what is not recorded yet."""
    jobs, lab = _jobs.jobs(__doc__), Lab()
    _jobs.spread(lambda run: choose(lab, **run), choices(), jobs)
    for todo in (pilots(), runs()):
        _jobs.spread(lambda run: measure(lab, **run), todo, jobs)
    facts = {
        "student": "tiny_cnn()",
        "teachers": {name: kd.zoo.card(path)["sha256"] for name, path in TEACHERS.items()},
        "chosen": lab.settings,
        "sizes": {f"{arm}, {t}": size(arm, t) for arm in ("distilled, matched", "labels, matched") for t in TEACHERS},
        "primary": PRIMARY,
        "sample": SAMPLE,
        "explainers": EXPLAINERS,
    }
    record(CHOICE, KEYS).finish((*KEYS, "epochs"), **facts)
    for models, maps in FILES.values():
        record(models, KEYS).finish(KEYS, **facts)
        record(maps, MAP_KEYS).finish(MAP_KEYS, **facts)


if __name__ == "__main__":
    main()
