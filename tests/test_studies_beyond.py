"""The study of chapter 07: seven losses against plain distillation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import kdutils as kd
from kdutils.studies import beyond_logits
from kdutils.studies._record import FOLDER, Record
from tests.common import fashion

METHODS = sorted({method for methods in beyond_logits.WEIGHTS.values() for method in methods})
CHOSEN = {"temperature": 4.0, "kd_weight": 1.0, "lr": 0.1}
TRAIN = fashion()[0][:160]


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return kd.zoo.load("fashion_mnist/resnet14")


@pytest.fixture
def lab(teacher: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> beyond_logits.Lab:
    """A study in small: 40 images, one step of 40, records in a temporary folder."""
    monkeypatch.setattr(beyond_logits, "IMAGES", 40)
    monkeypatch.setattr(beyond_logits, "BATCH", 40)
    monkeypatch.setattr(beyond_logits, "FOLDER", tmp_path)
    monkeypatch.setattr(beyond_logits, "Record", lambda name, keys: Record(name, keys, tmp_path))
    monkeypatch.setattr(beyond_logits, "STEPS", 1)
    monkeypatch.setattr(beyond_logits, "CHOICE_STEPS", 1)
    lab = beyond_logits.Lab.__new__(beyond_logits.Lab)
    lab.everything, lab.validation, lab.test = TRAIN, fashion()[0][160:190], fashion()[1][:30]
    lab.teacher, lab.settings, lab.seed = teacher, CHOSEN, None
    lab.teacher_test = kd.predict(teacher, lab.test.tensors()[0])
    return lab


class Distill:
    """Stands in for `kd.distill` and notes how it was called."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []

    def __call__(self, student: nn.Module, teacher: Any, train: Any, **options: Any) -> None:
        self.calls.append(SimpleNamespace(student=student, teacher=teacher, train=train, **options))


@pytest.fixture
def distill(monkeypatch: pytest.MonkeyPatch) -> Distill:
    stand_in = Distill()
    monkeypatch.setattr(beyond_logits.kd, "distill", stand_in)
    return stand_in


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_its_terms(lab: beyond_logits.Lab, method: str) -> None:
    lab.open(0)
    found = beyond_logits.terms(method, 0.5, 4.0)
    assert found
    with kd.seeded(0):
        student = kd.models.tiny_cnn()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    options: dict[str, Any] = {"epochs": 1, "kd_weight": 0.0, "ce_weight": 0.0, "augment": "flip", "weight_decay": 0.0}
    history = kd.distill(student, lab.outputs, lab.train, terms=found, **options)
    assert {"ce", *(term.name for term in found)} < set(history)
    assert all(history[term.name][0] > 0 for term in found)
    assert not torch.equal(before["0.weight"], student.state_dict()["0.weight"]), "the terms alone move the first layer"
    assert {term.trained is not None for term in found} == {method in ("FitNets", "CRD")}


@pytest.mark.parametrize("family", list(beyond_logits.WEIGHTS))
def test_the_control_has_no_term_and_differs_in_nothing_else(
    lab: beyond_logits.Lab, distill: Distill, family: str
) -> None:
    assert beyond_logits.terms("none", 0.0, 4.0) == []
    for method in ("none", *beyond_logits.WEIGHTS[family]):
        lab.student(family, method, 0.5, seed=3, steps=1)
    control, *others = distill.calls
    assert control.terms == []
    shared = ("epochs", "temperature", "augment", "seed", "lr", "ce_weight")
    for method, call in zip(beyond_logits.WEIGHTS[family], others, strict=True):
        assert call.terms, method
        assert [getattr(call, name) for name in shared] == [getattr(control, name) for name in shared]
        assert call.kd_weight == (0.0 if method == "DKD" else control.kd_weight)
        assert call.train is control.train and call.teacher is control.teacher
        state = control.student.state_dict()
        assert all(torch.equal(state[name], value) for name, value in call.student.state_dict().items())
    assert (control.kd_weight, control.ce_weight) == ((1.0, 0.0) if family == beyond_logits.WITH_KD else (0.0, 1.0))


def test_dkd_takes_the_place_of_plain_distillation_with_its_weight_on_the_dark_part(lab: beyond_logits.Lab) -> None:
    (term,) = beyond_logits.terms("DKD", 2.0, 4.0)
    z, t = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    wanted = kd.losses.dkd_loss(z, t, labels, temperature=4.0, target_weight=1.0, nontarget_weight=2.0)
    assert term.labels and term.weight == 1 and term.student_layer is None
    torch.testing.assert_close(term.loss(z, t, labels), wanted)


def test_every_arm_has_a_grid_and_the_primary_comparison_is_one_of_them() -> None:
    arms = beyond_logits.pairs()
    assert len(arms) == len(set(arms)) == 14
    assert beyond_logits.PRIMARY in arms
    assert all(len(grid) == 3 for methods in beyond_logits.WEIGHTS.values() for grid in methods.values())
    assert set(beyond_logits.CHOICE_SEEDS).isdisjoint(beyond_logits.SEEDS) and len(beyond_logits.SEEDS) >= 8


def recorded(folder: Path, name: str) -> str:
    return (folder / f"{name}.csv").read_text()


def test_a_weight_is_chosen_on_validation_images_only(
    lab: beyond_logits.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weight by validation is taken, and no part of the choice reads the test images."""
    seen = []
    monkeypatch.setattr(beyond_logits, "logits_and_labels", lambda model, data: seen.append(data) or answers(data))
    monkeypatch.setattr(lab, "student", lambda *args: (nn.Identity(), 0.0))
    beyond_logits.choice(lab, 100)
    assert seen and all(data is lab.validation for data in seen)
    table = pd.read_csv(tmp_path / "beyond_logits_choice.csv")
    assert len(table) == 36 and not {"accuracy", "test_accuracy"} & set(table)
    table["val_accuracy"] = 0.5
    rows = (table.family == beyond_logits.WITH_KD) & (table.method == "CRD")
    table.loc[rows, "val_accuracy"] = [0.6, 0.9, 0.7]
    table["accuracy"] = 0.0
    table.loc[rows, "accuracy"] = [1.0, 0.0, 0.0]  # a test score would say something else
    table.to_csv(tmp_path / "beyond_logits_choice.csv", index=False)
    assert beyond_logits.chosen(beyond_logits.WITH_KD, "CRD") == sorted(table[rows].weight)[1]
    assert beyond_logits.chosen(beyond_logits.WITH_KD, "none") == 0


def answers(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return nn.functional.one_hot(data.labels, 10).float(), data.labels


def test_a_tiny_contest_is_complete_and_goes_on_where_it_stopped(
    lab: beyond_logits.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {beyond_logits.WITH_KD: {"CRD": (0.1,)}, beyond_logits.WITH_LABELS: {"DIST": (1.0,)}}
    monkeypatch.setattr(beyond_logits, "WEIGHTS", few)
    beyond_logits.choice(lab, 100)
    beyond_logits.contest(lab, 0)
    table = pd.read_csv(tmp_path / "beyond_logits.csv")
    assert list(zip(table.family, table.method, strict=True)) == beyond_logits.pairs()
    assert table.weight.tolist() == [0, 0.1, 0, 1.0] and (table.n == 30).all() and (table.cpu_seconds > 0).all()
    before = recorded(tmp_path, "beyond_logits"), recorded(tmp_path, "beyond_logits_choice")

    def never(*args: Any) -> None:
        raise AssertionError("a recorded run was repeated")

    monkeypatch.setattr(lab, "student", never)
    beyond_logits.choice(lab, 100)
    beyond_logits.contest(lab, 0)
    assert (recorded(tmp_path, "beyond_logits"), recorded(tmp_path, "beyond_logits_choice")) == before
    with pytest.raises(AssertionError, match="repeated"):
        beyond_logits.contest(lab, 1)


def test_a_run_is_the_same_twice(lab: beyond_logits.Lab) -> None:
    a, b = (lab.student(beyond_logits.WITH_KD, "CRD", 0.1, seed=1, steps=1)[0] for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_every_run_of_the_study_is_recorded_and_nothing_else() -> None:
    contest, choice = (pd.read_csv(FOLDER / f"{name}.csv") for name in ("beyond_logits", "beyond_logits_choice"))
    assert len(contest) == len(beyond_logits.pairs()) * len(beyond_logits.SEEDS)
    for (family, method), rows in contest.groupby(["family", "method"]):
        assert (family, method) in beyond_logits.pairs()
        assert sorted(rows.seed) == list(beyond_logits.SEEDS)
        assert set(rows.weight) == {beyond_logits.chosen(str(family), str(method))}
    assert len(choice) == 36 * len(beyond_logits.CHOICE_SEEDS)
