"""Every bad input is told at once, in one sentence, and leaves everything as it was.

One table. A row: what is done wrong, the exception, and words that the sentence has to hold: the argument,
what came, what is wanted.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import kdutils as kd
from kdutils import data, losses, metrics, models, train, zoo
from kdutils.data import ImageSet
from tests.common import (
    Pixels,
    files,
    modes,
    pixels,
    random_set,
    random_state,
    same_bits,
    served,
    weights,
)

NAN, INF = float("nan"), float("inf")


@dataclass
class World:
    """What the bad calls work with: a teacher in mixed modes, a student, a set, a folder."""

    folder: Path
    patch: pytest.MonkeyPatch
    teacher: Pixels = field(default_factory=lambda: pixels(2).train())
    student: Pixels = field(default_factory=lambda: pixels(1))
    set: ImageSet = field(default_factory=lambda: random_set(40))

    def distill(self, student: Any = None, teacher: Any = None, train: Any = None, **options: Any) -> Any:
        options = {"epochs": 1, "batch_size": 8} | options
        return kd.distill(
            self.student if student is None else student,
            self.teacher if teacher is None else teacher,
            self.set if train is None else train,
            **options,
        )

    def term(self, **options: Any) -> kd.Term:
        usual = {"name": "x", "loss": losses.hint_loss, "weight": 1, "student_layer": "norm", "teacher_layer": "norm"}
        return kd.Term(**(usual | options))

    def fit(self, model: Any = None, train: Any = None, **options: Any) -> Any:
        options = {"epochs": 1, "batch_size": 8} | options
        return kd.fit(self.student if model is None else model, self.set if train is None else train, **options)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        images, labels = self.set.tensors()
        return list(zip(images.split(8), labels.split(8), strict=True))

    def batches_with(self, step: int, *, pixel: float | None = None, labels: Any = None) -> list[Any]:
        """The batches, the one of that step (from 1) with a bad pixel or other labels."""
        batches: list[Any] = self.batches()
        images, right = batches[step - 1]
        if pixel is not None:
            images = images.clone()
            images[3, 0, 2, 2] = pixel
        batches[step - 1] = (images, right if labels is None else labels)
        return batches

    def broken(self, model: nn.Module, value: float = NAN) -> nn.Module:
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = value
        return model

    def images(
        self, *broken: str, classes: tuple[str, ...] = ("cat", "dog"), parts: tuple[str, ...] = ("train", "test")
    ) -> Path:
        """A folder of images; the files named in `broken` hold no image."""
        root = self.folder / "pets"
        for part in parts:
            for name in classes:
                (root / part / name).mkdir(parents=True, exist_ok=True)
                for i in range(2):
                    Image.fromarray(np.full((9, 9, 3), 50 * i, dtype=np.uint8)).save(root / part / name / f"{i}.png")
        for name in broken:
            (root / name).write_text("this is no image")
        return root


def run_dry(world: World) -> Any:
    return world.fit(train=(batch for batch in world.batches()), epochs=2)


def sharing(world: World) -> Any:
    student = pixels(1)
    student.head = world.teacher.head
    return world.distill(student)


def damaged_weights(world: World) -> Any:
    folder = world.folder / "weights"
    shutil.copytree(zoo.FOLDER, folder)
    file = folder / zoo.card("fashion_mnist/tiny_cnn")["file"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    world.patch.setattr(zoo, "FOLDER", folder)
    world.before = files(world.folder)  # type: ignore[attr-defined]
    return zoo.load("fashion_mnist/tiny_cnn")


def damaged_fashion(world: World) -> Any:
    world.patch.setitem(data._FASHION_FILES, "t10k-labels-idx1-ubyte.gz", "0" * 64)
    return data.load("fashion_mnist")


def damaged_download(world: World) -> Any:
    from torchvision.datasets import CIFAR10

    (world.folder / "server").mkdir()
    (world.folder / "server" / CIFAR10.filename).write_bytes(b"half of an archive" * 100)
    world.before = files(world.folder)  # type: ignore[attr-defined]
    with served(world.folder / "server", world.patch) as address:
        world.patch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
        return data.load("cifar10", root=world.folder / "new" / "home")


def unreachable_download(world: World) -> Any:
    from torchvision.datasets import CIFAR100

    world.patch.setenv("no_proxy", "127.0.0.1")
    world.patch.setattr(CIFAR100, "url", "http://127.0.0.1:9/none.tar.gz")
    world.patch.setenv("KDUTILS_HOME", str(world.folder / "cache"))
    return data.load("cifar100")


def truncated_image(world: World) -> Any:
    file = world.images() / "test" / "dog" / "1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:2_000])
    world.before = files(world.folder)  # type: ignore[attr-defined]
    return data.from_folder(world.folder / "pets")


def folder(*broken: str, remove: str | None = None, **options: Any) -> Callable[[World], Any]:
    def do(world: World) -> Any:
        root = world.images(*broken, **options)
        if remove:
            shutil.rmtree(root / remove)
        world.before = files(world.folder)  # type: ignore[attr-defined]
        return data.from_folder(root)

    return do


def statistics(**options: Any) -> Callable[[World], Any]:
    def do(world: World) -> Any:
        root = world.images()
        world.before = files(world.folder)  # type: ignore[attr-defined]
        return data.from_folder(root, **options)

    return do


def empty_class(world: World) -> Any:
    root = world.images()
    for file in (root / "train" / "dog").iterdir():
        file.unlink()
    world.before = files(world.folder)  # type: ignore[attr-defined]
    return data.from_folder(root)


def explain(
    method: str = "saliency", pixel: float = 0.0, targets: Any = None, train: bool = False, **options: Any
) -> Any:
    def do(world: World) -> Any:
        model = pixels(3).train(train)
        images = torch.zeros(3, 1, 8, 8)
        images[1, 0, 0, 0] = pixel
        wanted = torch.tensor([0, 1, 2]) if targets is None else targets
        return kd.explain.attribute(model, images, wanted, method, **options)

    return do


def logits(n: int = 4, k: int = 10) -> Tensor:
    return torch.zeros(n, k)


def combined(labels: Any = None, **changes: Any) -> Any:
    labels = torch.tensor([0, 1, 2, 3]) if labels is None else labels
    settings = {"temperature": 4.0, "kd_weight": 0.9, "ce_weight": 0.1} | changes
    return losses.distillation_loss(logits(), logits(), labels, **settings)


def dkd(logits: Tensor, labels: Any = None, **changes: Any) -> Any:
    labels = torch.tensor([0, 1, 0, 1]) if labels is None else labels
    settings = {"temperature": 4.0, "target_weight": 1.0, "nontarget_weight": 8.0} | changes
    return losses.dkd_loss(logits, torch.zeros_like(logits), labels, **settings)


def average(teachers: Any, temperature: Any = 4.0, average: Any = "probabilities") -> Any:
    return losses.average_teachers(teachers, temperature=temperature, average=average)


FEATURE_LOSSES = {
    "hint": (losses.hint_loss, "student_features", "teacher_features"),
    "attention": (losses.attention_transfer_loss, "student_features", "teacher_features"),
    "similarity": (losses.similarity_loss, "student_features", "teacher_features"),
    "distance": (losses.rkd_distance_loss, "student", "teacher"),
    "angle": (losses.rkd_angle_loss, "student", "teacher"),
    "crd": (losses.crd_loss, "student", "teacher"),
}


def maps(*shape: int) -> Tensor:
    return torch.ones(shape or (4, 3, 5, 5))


class WithoutBatch(nn.Module):
    """Gives what no classifier gives."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self.scale, self.out = nn.Parameter(torch.ones(1)), out

    def forward(self, x: Tensor) -> Any:
        return self.out if not isinstance(self.out, Tensor) else self.out * self.scale


TABLE: list[tuple[str, Callable[[World], Any], type[Exception], tuple[str, ...]]] = [
    # Logits, temperature, weights, labels: the losses
    ("kd_loss: other classes", lambda w: losses.kd_loss(logits(), logits(4, 9), 4), ValueError,
     ("student_logits", "teacher_logits", "same shape", "(4, 10)", "(4, 9)")),
    ("kd_loss: other batch", lambda w: losses.kd_loss(logits(), logits(3), 4), ValueError, ("same shape", "(3, 10)")),
    ("kd_loss: one row", lambda w: losses.kd_loss(torch.zeros(10), torch.zeros(10), 4), ValueError,
     ("student_logits", "(N, K)", "(10,)")),
    ("kd_loss: integers", lambda w: losses.kd_loss(logits(), logits().long(), 4), ValueError,
     ("teacher_logits", "float", "int64")),
    ("kd_loss: a list", lambda w: losses.kd_loss([[1.0]], logits(), 4), ValueError, ("student_logits", "list")),
    ("kd_loss: no image", lambda w: losses.kd_loss(logits(0), logits(0), 4), ValueError, ("N at least 1", "(0, 10)")),
    *[(f"kd_loss: temperature {t!r}", lambda w, t=t: losses.kd_loss(logits(), logits(), t), ValueError,
       ("temperature must be a positive finite number", repr(t))) for t in (0, -1, NAN, INF, "4", None, True)],
    *[(f"distill: temperature {t!r}", lambda w, t=t: w.distill(temperature=t), ValueError,
       ("temperature must be a positive finite number", repr(t))) for t in (0, -1.5, NAN, INF, "hot")],
    *[(f"loss: {name} {v!r}", lambda w, name=name, v=v: combined(**{name: v}), ValueError,
       (f"{name} must be a finite number of at least 0", repr(v)))
      for name in ("kd_weight", "ce_weight") for v in (-0.1, NAN, INF, "0.9")],
    ("loss: both weights zero", lambda w: combined(kd_weight=0, ce_weight=0.0), ValueError,
     ("kd_weight and ce_weight", "both 0")),
    ("distill: weight below zero", lambda w: w.distill(ce_weight=-1), ValueError, ("ce_weight", "at least 0", "-1")),
    ("distill: both weights zero", lambda w: w.distill(kd_weight=0, ce_weight=0), ValueError, ("both 0",)),
    ("loss: label too high", lambda w: combined(torch.tensor([0, 1, 10, 2])), ValueError,
     ("labels", "0 to 9", "10 classes", "0 to 10")),
    ("loss: label below zero", lambda w: combined(torch.tensor([0, 1, -1, 2])), ValueError, ("labels", "from -1 to 2")),
    ("loss: float labels", lambda w: combined(torch.zeros(4)), ValueError, ("labels must be int64", "float32")),
    ("loss: int32 labels", lambda w: combined(torch.zeros(4, dtype=torch.int32)), ValueError, ("int64", "int32")),
    ("loss: one-hot labels", lambda w: combined(torch.eye(4, 10)), ValueError, ("shape (4,)", "(4, 10)")),
    ("loss: list of labels", lambda w: combined([0, 1, 2, 3]), ValueError, ("labels", "int64", "list")),
    ("dkd: two classes", lambda w: dkd(logits(4, 2)), ValueError, ("student_logits", "at least 3 classes", "got 2")),
    ("dkd: one class", lambda w: dkd(logits(4, 1)), ValueError, ("student_logits", "at least 3 classes", "got 1")),
    ("dkd: one row", lambda w: dkd(torch.zeros(10)), ValueError, ("student_logits", "(N, K)", "(10,)")),
    ("dkd: temperature 0", lambda w: dkd(logits(), temperature=0), ValueError, ("temperature must be a positive",)),
    ("dkd: weight below zero", lambda w: dkd(logits(), nontarget_weight=-8), ValueError,
     ("nontarget_weight", "at least 0", "-8")),
    ("dkd: both weights zero", lambda w: dkd(logits(), target_weight=0, nontarget_weight=0), ValueError,
     ("target_weight and nontarget_weight", "both 0")),
    ("dkd: label too high", lambda w: dkd(logits(), torch.tensor([0, 1, 10, 2])), ValueError, ("labels", "0 to 9")),
    ("dkd: label below zero", lambda w: dkd(logits(), torch.tensor([0, 1, -1, 2])), ValueError, ("labels", "from -1")),
    ("dkd: float labels", lambda w: dkd(logits(), torch.zeros(4)), ValueError, ("labels must be int64", "float32")),
    ("dist: other classes", lambda w: losses.dist_loss(logits(), logits(4, 9)), ValueError, ("same shape", "(4, 9)")),
    ("dist: temperature", lambda w: losses.dist_loss(logits(), logits(), -1), ValueError, ("temperature", "-1")),
    ("no teacher to average", lambda w: average([]), ValueError, ("teacher_logits", "at least one", "empty")),
    ("average of no list", lambda w: average(logits()), ValueError, ("teacher_logits", "list", "got Tensor")),
    ("average of other classes", lambda w: average([logits(), logits(), logits(4, 9)]), ValueError,
     ("teacher_logits[0] and teacher_logits[2]", "same shape", "(4, 10)", "(4, 9)")),
    ("average of integers", lambda w: average([logits(), logits().long()]), ValueError,
     ("teacher_logits[1]", "float", "int64")),
    ("average: temperature", lambda w: average([logits()], 0), ValueError, ("temperature must be a positive", "0")),
    ("average: unknown", lambda w: average([logits()], average="mean"), ValueError,
     ("average", "'probabilities' or 'logits'", "'mean'")),
    *[(f"{name}: {what}", lambda w, f=f, s=s, t=t: f(s, t), ValueError, (*names[:which], *words))
      for name, (f, *names) in FEATURE_LOSSES.items() for what, s, t, which, words in (
          ("other images", maps(), maps(3, 3, 5, 5), 2, ("the same", "N", "(4, 3, 5, 5)", "(3, 3, 5, 5)")),
          ("no image", maps(0, 3, 5, 5), maps(0, 3, 5, 5), 1, ("float tensor", "N at least 1", "(0, 3, 5, 5)")),
          ("an empty axis", maps(4, 0, 5, 5), maps(4, 0, 5, 5), 1, ("no empty axis", "(4, 0, 5, 5)")),
          ("one axis", maps(4), maps(4), 1, ("(N, ", "(4,)")),
          ("integers", maps().long(), maps(), 1, ("float", "int64")),
          ("an array", np.ones((4, 3)), maps(), 1, ("float tensor", "ndarray")))],
    ("hint: other width", lambda w: losses.hint_loss(maps(4, 3), maps(4, 6)), ValueError,
     ("student_features and teacher_features", "same shape (N, ...)", "(4, 3)", "(4, 6)")),
    ("attention: other height", lambda w: losses.attention_transfer_loss(maps(), maps(4, 3, 4, 5)), ValueError,
     ("the same N and H and W in (N, C, H, W)", "(4, 3, 4, 5)")),
    ("attention: no map", lambda w: losses.attention_transfer_loss(maps(4, 3), maps(4, 3)), ValueError,
     ("student_features", "(N, C, H, W)", "(4, 3)")),
    *[(f"attention: p = {p!r}", lambda w, p=p: losses.attention_transfer_loss(maps(), maps(), p), ValueError,
       ("p must be a finite number of at least 1", repr(p))) for p in (0, 0.5, -2, NAN, INF, "2", True)],
    ("angle: many images", lambda w: losses.rkd_angle_loss(maps(513, 2), maps(513, 2)), ValueError,
     ("student", "at most 512 images", "memory", "513")),
    ("crd: other width", lambda w: losses.crd_loss(maps(4, 3), maps(4, 6)), ValueError,
     ("student and teacher", "same shape (N, D)", "(4, 3)", "(4, 6)")),
    ("crd: temperature", lambda w: losses.crd_loss(maps(), maps(), 0), ValueError, ("temperature must be a positive",)),

    # Arguments of fit and distill
    ("epochs 0", lambda w: w.fit(epochs=0), ValueError, ("epochs", "at least 1", "0")),
    ("epochs 1.5", lambda w: w.fit(epochs=1.5), ValueError, ("epochs", "integer", "1.5")),
    ("batch size 0", lambda w: w.distill(batch_size=0), ValueError, ("batch_size", "at least 1", "0")),
    ("seed below zero", lambda w: w.fit(seed=-1), ValueError, ("seed", "non-negative integer", "-1")),
    ("seed too large", lambda w: w.fit(seed=2**70), ValueError, ("seed", "integer", str(2**70))),
    ("unknown augmentation", lambda w: w.distill(augment="rotate"), ValueError, ("augment", '"flip"', "'rotate'")),
    ("unknown optimizer", lambda w: w.fit(optimizer="adam"), ValueError, ("optimizer 'adam'", "'adamw'", "sgd")),
    ("lr 0", lambda w: w.fit(lr=0), ValueError, ("lr must be a positive finite number", "0")),
    ("lr NaN", lambda w: w.fit(lr=NAN), ValueError, ("lr", "nan")),
    ("lr a string", lambda w: w.fit(lr="0.1"), ValueError, ("lr", "'0.1'")),
    ("weight decay below zero", lambda w: w.distill(weight_decay=-1), ValueError, ("weight_decay", "at least 0", "-1")),
    ("label smoothing 1", lambda w: w.fit(label_smoothing=1.0), ValueError, ("label_smoothing", "[0, 1)", "1.0")),
    ("label smoothing below zero", lambda w: w.fit(label_smoothing=-0.1), ValueError, ("label_smoothing", "-0.1")),
    ("model is no module", lambda w: w.fit(model=lambda x: x), ValueError, ("model", "torch.nn.Module", "function")),
    ("student is no module", lambda w: w.distill(student="resnet"), ValueError, ("student", "Module", "str")),
    ("teacher is no module", lambda w: w.distill(teacher="resnet"), ValueError, ("teacher", "Module", "str")),
    ("nothing to train", lambda w: w.fit(pixels().requires_grad_(False)), ValueError, ("model", "gradient")),
    ("teacher is the student", lambda w: w.distill(student=w.teacher), ValueError,
     ("teacher is the student", "separate")),
    ("teacher shares parameters", sharing, ValueError, ("teacher", "shares parameters", "separate")),
    ("student inside the teacher", lambda w: w.distill(w.teacher, nn.Sequential(w.teacher)), ValueError, ("shares",)),
    ("student with other classes", lambda w: w.distill(pixels(1, 12)), ValueError,
     ("same shape", "(8, 12)", "(8, 10)")),
    ("fewer logits than classes", lambda w: w.fit(pixels(1, 4)), ValueError, ("labels", "0 to 3", "4 classes")),
    ("student gives maps", lambda w: w.fit(WithoutBatch(torch.zeros(8, 10, 2))), ValueError, ("(8, K)", "(8, 10, 2)")),
    ("student gives a dictionary", lambda w: w.fit(WithoutBatch({})), ValueError, ("(8, K)", "dict")),
    ("teacher gives a tuple", lambda w: w.distill(teacher=WithoutBatch(()), train=w.batches()), ValueError,
     ("the teacher", "(8, K)", "tuple")),

    # Numbers that are not finite: with the step
    ("NaN in inputs", lambda w: w.fit(train=w.batches_with(3, pixel=NAN)), FloatingPointError,
     ("inputs", "NaN or infinity", "epoch 1, step 3", "finite")),
    ("infinity in inputs", lambda w: w.distill(train=w.batches_with(2, pixel=INF)), FloatingPointError,
     ("inputs", "epoch 1, step 2")),
    ("NaN in the teacher's logits", lambda w: w.distill(teacher=w.broken(pixels(4)), train=w.batches()),
     FloatingPointError, ("teacher", "NaN or infinite logits", "epoch 1, step 1")),
    ("NaN in stored logits", lambda w: w.distill(teacher=torch.full((1, 40, 10), NAN), augment=False),
     FloatingPointError, ("teacher", "epoch 1, step 1")),
    ("NaN in the student's logits", lambda w: w.fit(w.broken(pixels(4))), FloatingPointError,
     ("model", "NaN or infinite logits", "epoch 1, step 1")),
    ("the loss is infinite", lambda w: w.fit(WithoutBatch(torch.tensor([[3e38] + [-3e38] * 9] * 8))),
     FloatingPointError, ("the loss (ce) is not finite", "epoch 1, step 1", "lr")),
    ("NaN when measured", lambda w: kd.evaluate(w.broken(pixels(4)), w.set), FloatingPointError,
     ("logits", "40", "NaN")),

    # Data for training
    ("empty list", lambda w: w.fit(train=[]), ValueError, ("train is empty", "at least one batch")),
    ("empty set", lambda w: w.fit(train=w.set[0:0]), ValueError, ("images is empty", "at least one image")),
    ("empty batch", lambda w: w.fit(train=[*w.batches()[:2], (torch.zeros(0, 1, 8, 8), torch.zeros(0).long())]),
     ValueError, ("train", "empty batch", "step 3")),
    ("one class", lambda w: w.distill(train=w.set[w.set.labels == 4]), ValueError,
     ("train", "one class", "class 4", "two")),
    ("generator runs dry", run_dry, ValueError, ("train", "epoch 2", "generator", "DataLoader")),
    ("not iterable", lambda w: w.fit(train=5), ValueError, ("train must be an ImageSet or an iterable", "int")),
    ("batches without labels", lambda w: w.fit(train=[torch.zeros(8, 1, 8, 8)]), ValueError,
     ("(inputs, labels)", "Tensor")),
    ("labels in a list", lambda w: w.fit(train=w.batches_with(1, labels=[0] * 8)), ValueError, ("two tensors",)),
    ("label too high in step 4", lambda w: w.fit(train=w.batches_with(4, labels=torch.full((8,), 17))), ValueError,
     ("labels", "0 to 9", "17")),
    ("float labels in step 2", lambda w: w.distill(train=w.batches_with(2, labels=torch.zeros(8))), ValueError,
     ("labels must be int64", "float32")),
    ("labels of another shape", lambda w: w.fit(train=w.batches_with(1, labels=torch.zeros(8, 1).long())), ValueError,
     ("labels", "(8,)", "(8, 1)")),
    ("stored logits: other images", lambda w: w.distill(teacher=torch.zeros(2, 39, 10), augment="flip"), ValueError,
     ("stored teacher logits", "(2, 40, K)", "(2, 39, 10)")),
    ("stored logits: no views", lambda w: w.distill(teacher=torch.zeros(40, 10), augment=False), ValueError,
     ("(1, 40, K)", "(40, 10)")),
    ("stored logits: too few views", lambda w: w.distill(teacher=torch.zeros(1, 40, 10), augment="flip"), ValueError,
     ("(2, 40, K)", "(1, 40, 10)")),
    ("stored logits: other classes", lambda w: w.distill(teacher=torch.zeros(1, 40, 7), augment=False), ValueError,
     ("same shape", "(8, 10)", "(8, 7)")),
    ("stored logits with shifts", lambda w: w.distill(teacher=torch.zeros(1, 40, 10)), ValueError,
     ("augment", '"flip"')),
    ("stored logits with batches", lambda w: w.distill(teacher=torch.zeros(1, 40, 10), train=w.batches(),
                                                       augment=False), ValueError, ("ImageSet",)),
    ("store logits of shifts", lambda w: train.teacher_logits(w.teacher, w.set, True), ValueError, ("augment", "True")),

    # Data sets
    ("unknown data set", lambda w: data.load("fashion"), ValueError, ("data set 'fashion'", "'fashion_mnist'")),
    ("unknown data set, far off", lambda w: data.load("CIFAR-10"), ValueError, ("'CIFAR-10'", "nearest is 'cifar10'")),
    ("train size 0", lambda w: data.load("fashion_mnist", train_size=0), ValueError, ("train_size", "1 to 60000", "0")),
    ("train size too large", lambda w: data.load("fashion_mnist", train_size=70_000), ValueError,
     ("train_size", "70000")),
    ("subset of none", lambda w: w.set.subset(0), ValueError, ("n must", "1 to 40", "0")),
    ("subset of a share", lambda w: w.set.subset(0.5), ValueError, ("n must be an integer", "0.5")),
    ("split without a rest", lambda w: w.set.split(40), ValueError, ("n must leave", "40")),
    ("float images", lambda w: replace(w.set, images=torch.zeros(40, 1, 8, 8)), ValueError,
     ("images", "uint8", "float32")),
    ("images without channels", lambda w: replace(w.set, images=w.set.images[:, 0]), ValueError,
     ("(N, C, H, W)", "(40, 8, 8)")),
    ("images from NumPy", lambda w: replace(w.set, images=w.set.images.numpy()), ValueError,
     ("images", "tensor", "ndarray")),
    ("fewer labels", lambda w: replace(w.set, labels=w.set.labels[1:]), ValueError, ("labels", "(40,)", "(39,)")),
    ("label without a class", lambda w: replace(w.set, classes=("a", "b")), ValueError, ("labels", "0 to 1", "0 to 9")),
    ("mean of other channels", lambda w: replace(w.set, mean=(0.5,) * 3), ValueError,
     ("mean and std", "1 channel", "0.5")),
    ("std of zero", lambda w: replace(w.set, std=(0.0,)), ValueError, ("std", "above 0", "0.0")),
    ("loader of batch size 0", lambda w: w.set.loader(0), ValueError, ("batch_size", "0")),
    ("embedded file damaged", damaged_fashion, ValueError, ("t10k-labels-idx1-ubyte.gz", "sha256", "install")),
    ("download damaged", damaged_download, ValueError, ("cifar10", "downloaded", "nothing was kept")),
    ("download not reachable", unreachable_download, ValueError, ("cifar100", "downloaded", "nothing was kept")),
    ("no folder", lambda w: data.from_folder(w.folder / "nowhere"), ValueError, ("path", "nowhere", "does not exist")),
    ("no test folder", folder(remove="test"), ValueError, ("path", "test is missing", "notes=[]")),
    ("mean of one channel", statistics(mean=(0.5,)), ValueError, ("mean", "three numbers from 0 to 1", "(0.5,)")),
    ("mean of bytes", statistics(mean=(124, 116, 104)), ValueError, ("mean", "divided by 255", "(124, 116, 104)")),
    ("std of zero in one channel", statistics(std=(0.2, 0.2, 0)), ValueError, ("std", "above 0", "(0.2, 0.2, 0)")),
    ("std not a number", statistics(std=(0.2, 0.2, float("nan"))), ValueError, ("std", "three numbers", "nan")),
    ("std a word", statistics(std="imagenet"), ValueError, ("std", "three numbers", "'imagenet'")),
    ("class without test images", folder(remove="test/dog"), ValueError, ("same classes", "dog")),
    ("one class in the folder", folder(classes=("cat",)), ValueError, ("two classes", "found 1")),
    ("class without images", empty_class, ValueError, ("dog", "no image", ".png")),
    ("broken image", folder("train/cat/1.png"), ValueError, ("train/cat/1.png", "could not be read")),
    ("cut-off image", truncated_image, ValueError, ("test/dog/1.png", "could not be read")),
    ("image size 0", lambda w: data.from_folder(w.folder, size=0), ValueError, ("size", "at least 1", "0")),

    # Terms, several teachers, mixing, mutual learning
    ("term: taken name", lambda w: w.term(name="kd"), ValueError, ("name", "history", "'kd'")),
    ("term: no word", lambda w: w.term(name="my hint"), ValueError, ("name", "one word", "'my hint'")),
    ("term: no function", lambda w: w.term(loss="mse"), ValueError, ("loss", "function", "str")),
    ("term: weight below zero", lambda w: w.term(weight=-1), ValueError, ("weight", "at least 0", "-1")),
    ("term: layer by number", lambda w: w.term(student_layer=2), ValueError, ("student_layer", "dotted path", "2")),
    ("term: unknown projector", lambda w: w.term(projector="conv"), ValueError, ("projector", '"linear"', "'conv'")),
    ("term: teacher below zero", lambda w: w.term(teacher=-1), ValueError, ("teacher", "at least 0", "-1")),
    ("terms of functions", lambda w: w.distill(terms=[losses.hint_loss]), ValueError, ("terms", "Term", "function")),
    ("terms of one name", lambda w: w.distill(terms=[w.term()] * 2), ValueError, ("terms", "different names", "x")),
    ("term: no such teacher", lambda w: w.distill(terms=[w.term(teacher=1)]), ValueError, ("teacher 1", "there are 1")),
    ("term: unknown layer", lambda w: w.distill(terms=[w.term(student_layer="norms")]), ValueError,
     ("student_layer 'norms'", "nearest is 'norm'")),
    ("term: unknown teacher layer", lambda w: w.distill(terms=[w.term(teacher_layer="layer")]), ValueError,
     ("teacher_layer 'layer'", "known are conv, drop, head, norm")),
    ("term: layers that do not fit", lambda w: w.distill(terms=[w.term(teacher_layer="head", projector="linear")]),
     ValueError, ("projector", "'x'", "(8, 6, 6, 6)", "(8, 10)")),
    ("all weights zero", lambda w: w.distill(kd_weight=0, ce_weight=0, terms=[w.term(weight=0)]), ValueError,
     ("kd_weight and ce_weight and x", "all 0")),
    ("term: no scalar", lambda w: w.distill(terms=[w.term(loss=lambda s, t: s)]), ValueError, ("'x'", "scalar")),
    ("term: labels of mixed images", lambda w: w.distill(mix="mixup", terms=[w.term(labels=True)]), ValueError,
     ("'x'", "one label", "'mixup'")),
    ("stored outputs without the layer", lambda w: w.distill(
        teacher={"logits": torch.zeros(1, 40, 10)}, augment=False, terms=[w.term()]), ValueError,
     ("stored teacher output 'norm'", "known are logits")),
    ("stored outputs of other images", lambda w: w.distill(
        teacher={"logits": torch.zeros(1, 40, 10), "norm": torch.zeros(1, 39, 6)}, augment=False), ValueError,
     ("stored teacher norm", "(1, 40, ...)", "(1, 39, 6)")),
    ("stored outputs of an unknown layer", lambda w: train.teacher_outputs(w.teacher, w.set, ["stage"]), ValueError,
     ("layer 'stage'", "nearest")),
    ("no teacher at all", lambda w: w.distill(teacher=[]), ValueError, ("teacher", "at least one")),
    ("second teacher is no module", lambda w: w.distill(teacher=[w.teacher, "x"]), ValueError, ("teacher", "str")),
    ("second teacher is the student", lambda w: w.distill(teacher=[w.teacher, w.student]), ValueError,
     ("teacher is the student",)),
    ("second teacher with other classes", lambda w: w.distill(teacher=[w.teacher, pixels(4, 12)]), ValueError,
     ("same shape", "(8, 10)", "(8, 12)")),
    ("unknown average", lambda w: w.distill(teacher_average="median"), ValueError, ("teacher_average", "'median'")),
    ("unknown mix", lambda w: w.distill(mix="blend"), ValueError, ("mix", '"cutmix"', "'blend'")),
    ("mixed batches", lambda w: w.distill(mix="mixup", train=w.batches()), ValueError, ("mix", "ImageSet", "list")),
    ("mix with stored logits", lambda w: w.distill(teacher=torch.zeros(1, 40, 10), augment=False, mix="mixup"),
     ValueError, ("stored", "no mix")),
    ("one mutual student", lambda w: kd.mutual([w.student], w.set, epochs=1), ValueError, ("students", "at least two")),
    ("the same student twice", lambda w: kd.mutual([w.student] * 2, w.set, epochs=1), ValueError,
     ("students", "share parameters")),
    ("mutual students of other classes", lambda w: kd.mutual([w.student, pixels(3, 12)], w.set, epochs=1), ValueError,
     ("same shape", "(40, 10)", "(40, 12)")),
    ("split that leaves nothing", lambda w: kd.selection.split(held_out=60_000), ValueError, ("at least one", "60000")),

    # Networks
    *[(f"depth {d!r}", lambda w, d=d: models.resnet(d), ValueError, ("depth must be 6n + 2", repr(d)))
      for d in (10, 2, 18, 14.0, "14", True)],
    ("width 0", lambda w: models.resnet(8, width=0), ValueError, ("width", "at least 1", "0")),
    ("no classes", lambda w: models.tiny_cnn(classes=0), ValueError, ("classes", "0")),
    ("patches that do not fit", lambda w: models.vit(image_size=30), ValueError, ("image_size", "patch (4)", "30")),
    ("heads that do not fit", lambda w: models.vit(dim=50), ValueError, ("dim", "heads (4)", "50")),
    ("unknown network", lambda w: zoo.load("fashion_mnist/resnet41"), ValueError,
     ("network 'fashion_mnist/resnet41'", "nearest is 'fashion_mnist/resnet14'")),
    ("unknown card", lambda w: zoo.card("resnet14"), ValueError, ("'resnet14'", "'fashion_mnist/resnet14'")),
    ("weights damaged", damaged_weights, ValueError, ("tiny_cnn.safetensors", "sha256", "wanted")),

    # Measures
    ("nothing to measure", lambda w: kd.evaluate(w.teacher, []), ValueError, ("empty", "at least one batch")),
    ("measured with a label too high", lambda w: kd.evaluate(pixels(1, 4), w.set), ValueError,
     ("labels", "0 to 3", "9")),
    ("compared with other classes", lambda w: kd.compare(pixels(1, 12), w.teacher, w.set), ValueError,
     ("student and teacher", "same shape", "(40, 12)", "(40, 10)")),
    ("predict: batch size 0", lambda w: kd.predict(w.teacher, torch.zeros(2, 1, 8, 8), 0), ValueError, ("batch_size",)),
    ("predict: no logits", lambda w: kd.predict(nn.Identity(), torch.zeros(2, 1, 8, 8)), ValueError,
     ("(2, K)", "(2, 1, 8, 8)")),
    ("calibration of logits", lambda w: metrics.ece(torch.eye(4) * 3, torch.zeros(4).long()), ValueError,
     ("probabilities", "sum to 1", "softmax")),
    ("no bins", lambda w: metrics.ece(torch.ones(4, 1), torch.zeros(4).long(), 0), ValueError, ("bins", "0")),
    ("temperature without images", lambda w: metrics.fit_temperature(logits(0), torch.zeros(0).long()), ValueError,
     ("at least one image", "(0, 10)")),
    ("interval of one", lambda w: kd.interval([0.9]), ValueError, ("values", "at least two", "[0.9]")),
    ("interval with NaN", lambda w: kd.interval([0.9, NAN]), ValueError, ("values", "finite", "nan")),
    ("interval of unequal lengths", lambda w: kd.interval([1, 2, 3], minus=[1, 2]), ValueError,
     ("same length", "(3,)", "(2,)")),
    ("confidence in percent", lambda w: kd.interval([1, 2], confidence=95), ValueError,
     ("confidence", "between 0 and 1", "95")),
    ("no repeats", lambda w: metrics.cost(w.teacher, torch.zeros(1, 1, 8, 8), 0), ValueError, ("repeats", "0")),

    # Explanations
    ("explain in training mode", explain(train=True), ValueError, ("model", "training mode", "eval()")),
    ("unknown method", explain("salience"), ValueError, ("method 'salience'", "nearest is 'saliency'")),
    ("unknown option", explain("integrated_gradients", step=8), ValueError, ("option", "'step'", "'steps'")),
    ("explain NaN", explain(pixel=NAN), ValueError, ("images", "NaN", "finite")),
    ("target too high", explain(targets=torch.tensor([0, 1, 10])), ValueError, ("targets", "0 to 9", "10")),
    ("targets of another type", explain(targets=torch.zeros(3)), ValueError, ("targets", "int64", "float32")),
    ("unknown measure", lambda w: kd.explain.map_agreement(torch.ones(1, 8, 8), torch.ones(1, 8, 8), "spearmen"),
     ValueError, ("measure 'spearmen'", "'spearman'")),
    ("maps of other shapes", lambda w: kd.explain.map_agreement(torch.ones(1, 8, 8), torch.ones(1, 8, 7), "cosine"),
     ValueError, ("maps_a and maps_b", "(1, 8, 8)", "(1, 8, 7)")),

    # Exercises and seeds
    ("unknown exercise", lambda w: kd.check.exercise("1.2", None), ValueError, ("exercise '1.2'", "nearest is")),
    ("seeded with a word", lambda w: kd.seeded("zero").__enter__(), ValueError, ("seed", "'zero'")),
]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDUTILS_HOME", str(tmp_path / "cache"))
    made = World(tmp_path, monkeypatch)
    made.teacher.norm.eval()  # mixed modes: the mode of each part has to come back
    yield made


@pytest.mark.parametrize(("bad", "error", "words"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_bad_input_is_told_in_one_sentence_and_leaves_everything_as_it_was(
    bad: Callable[[World], Any], error: type[Exception], words: tuple[str, ...], world: World
) -> None:
    kept, mode, state = weights(world.teacher), modes(world.teacher), random_state()
    world.before = files(world.folder)  # type: ignore[attr-defined]
    with pytest.raises(Exception) as caught:
        bad(world)
    said = str(caught.value)
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {said}"
    assert "\n" not in said
    bare = said.replace(str(world.folder), "")
    assert len(bare) < 300
    assert bare.endswith(".")
    assert not re.search(r"[.!?] [A-Z]", bare), f"more than one sentence: {said}"
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"
    assert modes(world.teacher) == mode, "the teacher's mode changed"
    assert same_bits(weights(world.teacher), kept), "the teacher's parameters or buffers changed"
    assert random_state() == state, "the global random state changed"
    assert files(world.folder) == world.before, "a file came, went or changed"  # type: ignore[attr-defined]


def test_the_table_names_each_case_once() -> None:
    names = [row[0] for row in TABLE]
    assert len(names) == len(set(names))
