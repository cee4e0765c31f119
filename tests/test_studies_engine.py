"""The studies of chapter 6: what each arm is trained with, what is recorded, and that a run is not repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kdutils as kd
from kdutils.studies import cifar10_gpu, cost, views
from kdutils.studies._record import Record
from tests.common import fashion


def in_folder(folder: Path) -> Any:
    return lambda name, keys: Record(name, keys, folder)


# ---------------------------------------------------------------- views


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> views.Lab:
    monkeypatch.setattr(views, "IMAGES", 32)
    monkeypatch.setattr(views, "EPOCHS", 2)
    monkeypatch.setattr(views, "Record", in_folder(tmp_path))
    made = views.Lab.__new__(views.Lab)
    made.everything, made.test = fashion()[0][:64], fashion()[1][:20]
    made.teacher = kd.zoo.load("fashion_mnist/tiny_cnn")
    made.teacher_test = kd.predict(made.teacher, made.test.tensors()[0])
    made.settings = {"temperature": 4.0, "kd_weight": 0.75, "lr": 0.1}
    return made


def test_the_arms_differ_in_the_teacher_alone(lab: views.Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[SimpleNamespace] = []

    def distill(student: Any, teacher: Any, train: Any, **options: Any) -> None:
        state = {name: value.clone() for name, value in student.state_dict().items()}
        calls.append(SimpleNamespace(state=state, teacher=teacher, train=train, options=options))

    monkeypatch.setattr(views.kd, "distill", distill)
    monkeypatch.setattr(views.kd, "fit", lambda s, t, **options: distill(s, None, t, **options))
    lab.one_seed(3)
    labels, *others = calls
    assert [call.teacher.views for call in others[:-1]] == [1, 4, 16] and others[-1].teacher is lab.teacher
    assert all(call.options == others[0].options and call.train is labels.train for call in others)
    assert labels.options.items() <= others[0].options.items()
    assert others[0].options["kd_weight"] == 0.75 and others[0].options["ce_weight"] == 0.25
    for call in others:
        assert all(torch.equal(value, labels.state[name]) for name, value in call.state.items()), "another start"
    rows = Record("views", keys=("arm", "seed"), folder=tmp_path).rows()
    assert [row["answers"] for row in rows] == ["0", "32", "128", "512", "64"]


def test_a_seed_that_is_recorded_is_not_run_again(lab: views.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.one_seed(0)
    monkeypatch.setattr(views.kd.store, "fill", lambda *a, **k: pytest.fail("filled again"))
    lab.one_seed(0)


# ---------------------------------------------------------------- CIFAR-10


def parts() -> tuple[kd.data.ImageSet, kd.data.ImageSet, kd.data.ImageSet]:
    """Random colour images in the three parts."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (120, 3, 32, 32), dtype=torch.uint8, generator=generator)
    classes = tuple(map(str, range(10)))
    whole = kd.data.ImageSet(images, torch.arange(120) % 10, classes, (0.5,) * 3, (0.25,) * 3)
    return whole[:70], whole[70:100], whole[100:]


def small_size(**changes: Any) -> cifar10_gpu.Size:
    few: dict[str, Any] = {
        "students": {"small": cifar10_gpu.small}, "images": 40, "batch": 8, "epochs": 1, "choice_epochs": 1,
        "validation": 20, "test": 20, "seeds": range(1), "choice_seeds": range(100, 102),
    }  # fmt: skip
    return replace(cifar10_gpu.CPU, **(few | changes))


@pytest.mark.filterwarnings("ignore:the teacher is right on")  # of random images
def test_the_whole_study_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cifar10_gpu, "Record", in_folder(tmp_path))
    monkeypatch.setattr(cifar10_gpu, "FOLDER", tmp_path)
    lab = cifar10_gpu.Lab(small_size(), parts())
    cifar10_gpu.choice(lab)
    cifar10_gpu.contest(lab)
    rows = Record("cifar10_cpu", keys=(), folder=tmp_path).rows()
    assert [row["arm"] for row in rows] == list(cifar10_gpu.ARMS) and {row["n"] for row in rows} == {"20"}
    assert len({row["nll"] for row in rows}) == 4, "two arms ended in the same place"
    picked = cifar10_gpu.chosen(lab.size, "small")
    assert set(picked) == {"lr", "temperature", "nontarget_weight", "added"} and picked["added"] in cifar10_gpu.ADDED
    monkeypatch.setattr(lab, "run", lambda *a: pytest.fail("a recorded run was made again"))
    cifar10_gpu.choice(lab)
    cifar10_gpu.contest(lab)


def test_nothing_is_chosen_on_test_images_and_no_stage_sees_a_later_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cifar10_gpu, "Record", in_folder(tmp_path))
    monkeypatch.setattr(cifar10_gpu, "FOLDER", tmp_path)
    monkeypatch.setattr(cifar10_gpu.kd, "evaluate", lambda *a: pytest.fail("looked at a set beside the training"))
    lab = cifar10_gpu.Lab(small_size(), parts())
    asked: list[tuple[str, Mapping[str, Any]]] = []

    def run(student: str, arm: str, setting: dict[str, Any], seed: int, epochs: int) -> dict[str, Any]:
        asked.append((arm, setting))
        good = setting == {"lr": 0.1} or setting.get("temperature") == 4.0 or setting.get("nontarget_weight") == 4.0
        return {"history": {"val_accuracy": [0.9, 0.5 + 0.1 * good]}}

    monkeypatch.setattr(lab, "run", run)
    cifar10_gpu.choice(lab)
    assert [set(setting) for arm, setting in asked if arm == "labels"] == [{"lr"}] * 6
    assert all(setting["lr"] == 0.1 for arm, setting in asked if arm != "labels")
    assert all(setting["temperature"] == 4.0 for arm, setting in asked if arm in ("DKD", "combination"))


def test_the_teacher_of_the_full_size_is_trained_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDUTILS_HOME", str(tmp_path))
    monkeypatch.setattr(cifar10_gpu, "Record", in_folder(tmp_path))
    size = small_size(teacher={"depth": 8, "width": 2}, teacher_epochs=1)
    first, second = (cifar10_gpu.Lab(size, parts()).teacher for _ in range(2))
    assert not first.training
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert len(Record("cifar10_gpu_teacher", keys=(), folder=tmp_path).rows()) == 1


def test_the_time_to_a_mark_counts_until_the_first_epoch_that_reaches_it() -> None:
    history = {"seconds": [1.0, 2.0, 4.0], "val_accuracy": [0.2, 0.5, 0.4]}
    assert cifar10_gpu.reached(history, 0.2) == 1.0
    assert cifar10_gpu.reached(history, 0.45) == 3.0
    assert cifar10_gpu.reached(history, 0.6) != cifar10_gpu.reached(history, 0.6)  # never: NaN


# ---------------------------------------------------------------- cost


def test_what_a_store_costs_is_measured_for_one_view() -> None:
    train = fashion()[0][:64]
    found = cost.measure(train, kd.zoo.load("fashion_mnist/tiny_cnn"))
    assert found["store_bytes"] - 128 == 64 * 10 * 2
    assert found["fill_seconds"] > 0 and found["epoch_seconds"] > 0
