"""The study of chapter 15: what each arm is trained with, and that its record is whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import kdutils as kd
from kdutils.studies import guided as study
from kdutils.studies._record import FOLDER, Record
from tests.common import fashion

CHOSEN = {"temperature": 4.0, "kd_weight": 1.0, "lr": 0.2}


@pytest.fixture(scope="module")
def ready() -> study.Lab:
    """The teacher's answers for 32 images, a few validation and test images."""
    patch = pytest.MonkeyPatch()
    patch.setattr(study, "MAPPED", {"validation": 6, "test": 8})
    patch.setattr(study, "SHIFTED", 20)
    patch.setattr(study, "EXPLAINERS", {"grad_cam": {}, "occlusion": {"window": 7, "stride": 7}})
    lab = study.Lab.__new__(study.Lab)
    lab.validation, lab.test = fashion()[0][160:190], fashion()[1][:30]
    lab.teacher, lab.settings = kd.zoo.load("fashion_mnist/resnet14"), dict(CHOSEN)
    lab.prepare(fashion()[0][:32])
    patch.undo()
    return lab


@pytest.fixture
def lab(ready: study.Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> study.Lab:
    """The study in small: one epoch of 32 images, records in a temporary folder."""
    monkeypatch.setattr(study, "MAPPED", {"validation": 6, "test": 8})
    monkeypatch.setattr(study, "EXPLAINERS", {"grad_cam": {}, "occlusion": {"window": 7, "stride": 7}})
    monkeypatch.setattr(study, "EPOCHS", 1)
    monkeypatch.setattr(study, "CHOICE_EPOCHS", 1)
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    monkeypatch.setattr(study, "Record", lambda name, keys: Record(name, keys, tmp_path))
    return ready


def test_every_arm_trains_with_its_own_term_and_differs_in_nothing_else(
    lab: study.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SimpleNamespace] = []
    monkeypatch.setattr(study.kd, "distill", lambda s, t, d, **o: made.append(SimpleNamespace(s=s, t=t, **o)))
    for arm in study.ARMS:
        lab.student(arm, 0.5, seed=3, epochs=2)
    calls = dict(zip(study.ARMS, made, strict=True))
    plain = calls[study.PLAIN]
    state = plain.s.state_dict()
    for arm, call in calls.items():
        assert all(torch.equal(state[name], value) for name, value in call.s.state_dict().items()), "another start"
        shared = {name for name in vars(plain) if name not in ("s", "t", "terms", "epochs")}
        assert all(getattr(call, name) == getattr(plain, name) for name in shared)
        assert call.epochs == (4 if arm == study.LONGER else 2)
        assert bool(call.terms) == (arm not in (study.PLAIN, study.LONGER))
        assert set(call.t) == {"logits", *lab.stored(arm)} and all(term.weight == 0.5 for term in call.terms)
    assert len({tuple(lab.stored(arm)) for arm in study.ARMS}) == 10  # AT and CAT share theirs, so do both plain ones


@pytest.mark.parametrize("arm", [*study.WEIGHTS, *study.CONTROLS])
def test_every_term_alone_moves_the_first_layer(lab: study.Lab, arm: str) -> None:
    with kd.seeded(0):
        student = kd.models.tiny_cnn()
    before = student.get_submodule("0").weight.detach().clone()  # type: ignore[union-attr]
    terms = lab.terms(arm, 1.0, student)
    options: dict[str, Any] = {"kd_weight": 0, "ce_weight": 0, "epochs": 1, "augment": False, "weight_decay": 0}
    history = kd.distill(student, lab.outputs, lab.train, terms=terms, **options)
    assert history[terms[0].name][0] > 0
    assert not torch.equal(before, student.get_submodule("0").weight)  # type: ignore[arg-type]


def test_the_controls_hold_the_maps_of_another_image_and_of_another_class(lab: study.Lab) -> None:
    for name in ("cam", "jacobian"):
        own, shuffled, wrong = (lab.outputs[key][0] for key in (name, f"{name}, shuffled", f"{name}, wrong class"))
        same = (own[:, None] == shuffled[None]).flatten(2).all(2)
        assert same.any(0).all() and same.any(1).all(), "a permutation of the maps"
        assert not same.diagonal().any(), "no image has its own map"
        assert not (own == wrong).flatten(1).all(1).any()


def test_the_shifted_images_are_the_same_images_and_harder(lab: study.Lab) -> None:
    for name, images in lab.shifted.items():
        assert torch.equal(images.labels, lab.test.labels[: len(images)])
        assert not torch.equal(images.images, lab.test.images[: len(images)]), name
    moved = lab.shifted["moved"].images.flatten(1).sum(1)
    assert (moved <= lab.test.images[: len(moved)].flatten(1).sum(1)).all(), "moved out, never in"


def test_a_student_that_is_the_teacher_agrees_with_it(lab: study.Lab) -> None:
    found = lab.agreement(lab.teacher, "test")
    assert all(found[f"{name}_cosine"] == pytest.approx(1, abs=1e-5) for name in study.EXPLAINERS)
    assert all(0 < found[f"{name}_specificity"] < 1 for name in study.EXPLAINERS)


def test_weights_are_chosen_on_validation_images_only(
    lab: study.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    blind = torch.zeros(30, 10), lab.validation.labels
    monkeypatch.setattr(study, "logits_and_labels", lambda model, data: seen.append(data) or blind)
    monkeypatch.setattr(lab, "agreement", lambda model, part: {"part": part})
    monkeypatch.setattr(lab, "student", lambda *args: (nn.Identity(), 0.0))
    study.choice(lab, 100)
    assert seen and all(data is lab.validation for data in seen)
    table = pd.read_csv(tmp_path / "guided_choice.csv")
    assert set(table.part) == {"validation"} and "accuracy" not in table
    assert len(table) == 1 + sum(len(grid) for grid in study.WEIGHTS.values())
    table["val_accuracy"] = 0.5
    table.loc[table.arm == "Jacobian", "val_accuracy"] = [0.6, 0.9, 0.7]
    table.to_csv(tmp_path / "guided_choice.csv", index=False)
    for arm in ("Jacobian", "Jacobian, shuffled", "Jacobian, wrong class"):
        assert study.chosen(arm) == sorted(study.WEIGHTS["Jacobian"])[1]
    assert study.chosen(study.PLAIN) == study.chosen(study.LONGER) == 0


def test_a_tiny_contest_goes_on_where_it_stopped(
    lab: study.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "chosen", lambda arm: 0.5)
    monkeypatch.setattr(study, "ARMS", (study.PLAIN, "e2KD"))
    study.contest(lab, 0)
    before = (tmp_path / "guided.csv").read_text()
    assert list(pd.read_csv(tmp_path / "guided.csv").arm) == [study.PLAIN, "e2KD"]
    monkeypatch.setattr(lab, "student", lambda *args: 1 / 0)
    study.contest(lab, 0)
    assert (tmp_path / "guided.csv").read_text() == before
    with pytest.raises(ZeroDivisionError):
        study.contest(lab, 1)


def test_every_run_of_the_study_is_recorded_and_nothing_else() -> None:
    contest, choice = (pd.read_csv(FOLDER / f"{name}.csv") for name in ("guided", "guided_choice"))
    assert len(contest) == len(study.ARMS) * len(study.SEEDS) and len(study.SEEDS) >= 8
    for arm, rows in contest.groupby("arm"):
        assert arm in study.ARMS and sorted(rows.seed) == list(study.SEEDS)
        assert set(rows.weight) == {study.chosen(str(arm))} and (rows.n == 10_000).all()
    assert len(choice) == (1 + sum(map(len, study.WEIGHTS.values()))) * len(study.CHOICE_SEEDS)
    assert set(study.CHOICE_SEEDS).isdisjoint(study.SEEDS) and len(study.PRIMARY) <= 6
    shares = [name for name in contest if str(name).endswith(("cosine", "specificity"))]
    assert len(shares) == 8 and contest[shares].abs().to_numpy().max() <= 1
