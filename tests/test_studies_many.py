"""The study of chapter 08: ensembles, assistants, born-again and mutual students, wrong teachers, borrowed weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils.studies import many_teachers
from kdutils.studies._record import FOLDER, Record
from kdutils.studies.many_teachers import ARMS, SEEDS, STARTS
from tests.common import fashion, same_bits, weights

pytestmark = pytest.mark.filterwarnings("ignore:the teacher is right on")  # after one step every teacher is near chance

CHOSEN = {"temperature": 4.0, "kd_weight": 1.0, "lr": 0.1, "smoothing": 0.05}
PUPILS = [name for name, arm in ARMS.items() if arm.teachers]
OWN = [name for name in PUPILS if not ARMS[name].choice]


@pytest.fixture(scope="module")
def big() -> nn.Module:
    return kd.zoo.load("fashion_mnist/resnet14")


@pytest.fixture
def lab(big: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> many_teachers.Lab:
    """A study in small: 40 images, one step of 40, records and networks' answers in a temporary folder."""
    for name, value in {"IMAGES": 40, "BATCH": 40, "STEPS": 1, "START_STEPS": 1}.items():
        monkeypatch.setattr(many_teachers, name, value)
    monkeypatch.setattr(many_teachers, "FOLDER", tmp_path)
    monkeypatch.setattr(many_teachers, "Record", lambda name, keys: Record(name, keys, tmp_path))
    lab = many_teachers.Lab.__new__(many_teachers.Lab)
    lab.train, lab.validation, lab.test = fashion()[0][:40], fashion()[0][40:70], fashion()[1][:30]
    lab.settings, lab.big, lab.folder = CHOSEN, big, tmp_path / "answers"
    lab.folder.mkdir()
    lab._keep(lab.folder / "resnet14.safetensors", big)
    return lab


@pytest.fixture
def weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was chosen yet: every arm takes the same weight."""
    monkeypatch.setattr(many_teachers, "chosen", lambda name: 0.9 if ARMS[name].teachers else 0.0)


def rows(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def never(*args: Any, **options: Any) -> None:
    raise AssertionError("a recorded run was repeated")


# The arms and their order.


@pytest.mark.parametrize("name", PUPILS)
def test_every_teacher_comes_before_its_pupil(name: str) -> None:
    order = list(ARMS)
    for each in ARMS[name].teachers:
        teacher = each.partition("+")[0]
        assert teacher == "resnet14" or order.index(teacher) < order.index(name), each


def test_a_run_never_waits_for_one_of_the_same_list_or_of_a_later_one() -> None:
    done: set[tuple[str, int]] = set()
    weights_known: set[str] = set()
    for runs in many_teachers.parts():
        for part, name, seed in runs:
            if part is many_teachers.start:
                continue
            for each in ARMS[name].teachers:
                teacher, _, later = each.partition("+")
                assert teacher == "resnet14" or (teacher, (seed + int(later or 0)) % len(SEEDS)) in done, (name, each)
            if part is many_teachers.measure and ARMS[name].teachers:
                assert (ARMS[name].choice or name) in weights_known, name
        done |= {(name, seed) for part, name, seed in runs if part is many_teachers.measure}
        weights_known |= {name for part, name, _ in runs if part is many_teachers.choice}


def test_every_run_is_planned_once() -> None:
    runs = [run for part in many_teachers.parts() for run in part]
    assert len(runs) == len(set(runs))
    assert {run for run in runs if run[0] is many_teachers.measure} == {
        (many_teachers.measure, name, seed) for name in ARMS for seed in SEEDS
    }
    assert {run for run in runs if run[0] is many_teachers.start} == {
        (many_teachers.start, name, seed) for name in STARTS for seed in SEEDS
    }
    assert {name for part, name, _ in runs if part is many_teachers.choice} == set(OWN)
    assert len(SEEDS) >= 8 and set(SEEDS).isdisjoint(many_teachers.CHOICE_SEEDS)


def test_who_takes_anothers_weight_takes_one_that_is_chosen() -> None:
    for name, arm in ARMS.items():
        assert not arm.choice or (arm.choice in OWN and arm.teachers), name


def test_the_primary_comparison_differs_in_the_number_of_teachers_only() -> None:
    four, one = (ARMS[name] for name in many_teachers.PRIMARY)
    assert four._replace(teachers=one.teachers) == one
    assert set(one.teachers) < set(four.teachers) and len(four.teachers) == 4


def test_averaging_probabilities_and_logits_differ_in_nothing_else() -> None:
    a, b = ARMS["four, probabilities"], ARMS["four, logits"]
    assert (a.average, b.average) == ("probabilities", "logits")
    assert a._replace(average="logits") == b


# Teachers.


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ensemble_of_a_seed_takes_four_different_seeds(
    lab: many_teachers.Lab, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    asked: list[tuple[str, int]] = []

    def says(name: str, seed: int) -> dict[str, Tensor]:
        asked.append((name, seed))
        return {"train": torch.full((2, 40, 10), float(seed))}

    monkeypatch.setattr(lab, "says", says)
    found = lab.teachers("four, probabilities", seed, "train")
    assert {name for name, _ in asked} == {"width 32"}
    used = [seed for _, seed in asked]
    assert len(set(used)) == 4 and set(used) <= set(SEEDS)
    assert [int(each[0, 0, 0]) for each in found] == used
    asked.clear()
    lab.teachers("one teacher", seed, "train")
    assert asked == [("width 32", seed)]


def test_what_a_network_says_is_stored_once_and_belongs_to_its_images(
    lab: many_teachers.Lab, weight: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = lab.says("width 8", 0)
    assert said["train"].shape == (2, 40, 10) and said["test"].shape == (30, 10)
    model = lab.network("width 8", 0, 0.0)
    torch.testing.assert_close(said["test"], kd.predict(model, lab.test.tensors()[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said["train"], kd.teacher_logits(model, lab.train, augment="flip"), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(lab, "network", never)
    assert torch.equal(lab.says("width 8", 0)["train"], said["train"])
    with pytest.raises(AssertionError, match="repeated"):
        lab.says("width 8", 1)


def test_wrong_teachers_are_wrong_in_the_way_their_name_says(lab: many_teachers.Lab, weight: None) -> None:
    (good,) = lab.teachers("one teacher", 0, "train")
    (shifted,) = lab.teachers("shifted classes", 0, "train")
    assert torch.equal(shifted[..., 1:], good[..., :-1]) and torch.equal(shifted[..., 0], good[..., -1])
    (untrained,) = lab.teachers("untrained", 0, "train")
    (again,) = lab.teachers("untrained", 0, "train")
    (other,) = lab.teachers("untrained", 1, "train")
    assert torch.equal(untrained, again) and not torch.equal(untrained, other)
    assert untrained.shape == good.shape and not torch.equal(untrained, good)
    assert lab.teachers("untrained", 0, "test")[0].shape == (30, 10)


@pytest.mark.parametrize("name", ["shifted classes", "untrained"])
def test_a_teacher_that_is_wrong_on_purpose_gives_no_warning(
    lab: many_teachers.Lab, weight: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hopeless = torch.nn.functional.one_hot((lab.train.labels + 1) % 10, 10).float().expand(2, -1, -1) * 5
    monkeypatch.setattr(lab, "teachers", lambda *args: [hopeless])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lab.network(name, 0, 0.5)
    with pytest.warns(UserWarning, match="is it trained"):  # nowhere else is it silenced
        lab.network("one teacher", 0, 0.5)


# Training.


class Spy:
    """Stands in for a training function and notes how it was called."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []

    def __call__(self, student: Any, *rest: Any, **options: Any) -> None:
        self.calls.append(SimpleNamespace(student=student, rest=rest, **options))


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    found = {name: Spy() for name in ("fit", "distill", "mutual")}
    for name, spy in found.items():
        monkeypatch.setattr(many_teachers.kd, name, spy)
    return found


def test_arms_of_one_width_share_all_but_their_teachers(
    lab: many_teachers.Lab, spies: dict[str, Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = torch.zeros(2, 40, 10)
    monkeypatch.setattr(lab, "teachers", lambda name, seed, part: [soft] * len(ARMS[name].teachers))
    names = [name for name, arm in ARMS.items() if arm.width == 8]
    for name in names:
        lab.network(name, 3, 0.9)
    assert len(spies["fit"].calls) == len(spies["mutual"].calls) == 1
    assert len(spies["distill"].calls) == len(names) - 2
    (alone,), (together,) = spies["fit"].calls, spies["mutual"].calls
    start = weights(alone.student)
    assert same_bits(start, weights(together.student[0])) and not same_bits(start, weights(together.student[1]))
    for call in [together, *spies["distill"].calls]:
        assert (call.epochs, call.augment, call.seed, call.lr) == (alone.epochs, "flip", 3, CHOSEN["lr"])
        assert call.rest[-1] is lab.train
    for call in spies["distill"].calls:
        assert same_bits(start, weights(call.student))
        assert call.temperature == CHOSEN["temperature"]
        assert call.kd_weight == 0.9 and np.isclose(call.ce_weight, 0.1)
    lab.network("four, logits", 3, 0.9)
    last = spies["distill"].calls[-1]
    assert len(last.rest[0]) == 4 and last.teacher_average == "logits"


@pytest.mark.parametrize("name", ["width 4", "one teacher", "four, logits", "mutual"])
def test_a_network_is_the_same_twice(lab: many_teachers.Lab, weight: None, name: str) -> None:
    a, b = (weights(lab.network(name, 1, 0.9)) for _ in range(2))
    assert same_bits(a, b)
    assert not same_bits(a, weights(lab.network(name, 2, 0.9)))


# Choosing.


def answers(data: Any) -> tuple[Tensor, Tensor]:
    return nn.functional.one_hot(data.labels, 10).float(), data.labels


def test_a_weight_is_chosen_on_validation_images_only(
    lab: many_teachers.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(many_teachers, "logits_and_labels", lambda model, data: seen.append(data) or answers(data))
    monkeypatch.setattr(lab, "network", lambda *args: nn.Identity())
    for seed in many_teachers.CHOICE_SEEDS:
        many_teachers.choice(lab, "one teacher", seed)
    assert seen and all(data is lab.validation for data in seen)
    table = rows(tmp_path, "many_teachers_choice")
    assert len(table) == len(many_teachers.KD_WEIGHTS) * len(many_teachers.CHOICE_SEEDS)
    assert not {"accuracy", "test_accuracy"} & set(table)


def test_chosen_takes_the_best_validation_mean_of_its_own_arm(lab: many_teachers.Lab, tmp_path: Path) -> None:
    scores = {
        "one teacher": (0.5, 0.9, 0.7, 0.6),
        "born again 1": (0.8, 0.1, 0.1, 0.1),
        "four, logits": (0.1, 0.2, 0.3, 0.2),
    }
    table = pd.DataFrame(
        {"arm": arm, "kd_weight": w, "seed": seed, "val_accuracy": v + spread, "accuracy": 1 - v}
        for arm, values in scores.items()
        for w, v in zip(many_teachers.KD_WEIGHTS, values, strict=True)
        for seed, spread in ((100, 0.01), (101, -0.01))
    )
    table.to_csv(tmp_path / "many_teachers_choice.csv", index=False)
    low, middle, high, _ = many_teachers.KD_WEIGHTS
    assert many_teachers.chosen("one teacher") == middle  # a test score, also in the table, would say `low`
    assert many_teachers.chosen("born again 1") == low
    assert many_teachers.chosen("born again 3") == low  # takes that of the first generation
    assert many_teachers.chosen("four, logits") == high
    assert many_teachers.chosen("width 8") == many_teachers.chosen("mutual") == 0


# The record.


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_found_again_in_the_record(tmp_path: Path, name: str) -> None:
    record = Record("study", keys=("arm", "seed"), folder=tmp_path)
    for seed in (0, 1):
        record.add(arm=name, width=8, seed=seed, accuracy=0.5)
    assert record.has(arm=name, seed=1) and not record.has(arm=name, seed=2)
    record.finish(("arm", "seed"))
    table = rows(tmp_path, "study")
    assert table.arm.tolist() == [name, name] and table.width.tolist() == [8, 8] and table.seed.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["width 8", "mutual", "four, probabilities", "born again 2", "4 via 16 and 8"])
def test_an_arm_is_measured_on_test_and_never_twice(
    lab: many_teachers.Lab, weight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    many_teachers.measure(lab, name, 0)
    found = rows(tmp_path, "many_teachers").iloc[0]
    assert (found.arm, found.width, found.seed, found.n) == (name, ARMS[name].width, 0, 30)
    logits = lab.says(name, 0)["test"]
    assert np.isclose(found.accuracy, float((logits.argmax(1) == lab.test.labels).float().mean()), atol=1e-5)
    if ARMS[name].teachers:
        soft = kd.losses.average_teachers(lab.teachers(name, 0, "test"), temperature=4.0, average=ARMS[name].average)
        right = float((soft.argmax(1) == lab.test.labels).float().mean())
        assert np.isclose(found.teacher_accuracy, right, atol=1e-5) and 0 <= found.agreement <= 1
    else:
        assert np.isnan(found.teacher_accuracy) and np.isnan(found.agreement) and found.kd_weight == 0
    before = (tmp_path / "many_teachers.csv").read_text()
    monkeypatch.setattr(lab, "says", never)
    many_teachers.measure(lab, name, 0)
    assert (tmp_path / "many_teachers.csv").read_text() == before
    with pytest.raises(AssertionError, match="repeated"):
        many_teachers.measure(lab, name, 1)


def test_an_interrupted_choice_goes_on_where_it_stopped(
    lab: many_teachers.Lab, weight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[float] = []
    real = lab.network

    def counted(stop_after: int) -> Callable[..., nn.Module]:
        def network(name: str, seed: int, kd_weight: float) -> nn.Module:
            if len(done) == stop_after:
                raise KeyboardInterrupt
            done.append(kd_weight)
            return real(name, seed, kd_weight)

        return network

    monkeypatch.setattr(lab, "network", counted(1))
    with pytest.raises(KeyboardInterrupt):
        many_teachers.choice(lab, "4 from resnet14", 100)
    monkeypatch.setattr(lab, "network", counted(99))
    many_teachers.choice(lab, "4 from resnet14", 100)
    assert done == list(many_teachers.KD_WEIGHTS)
    assert rows(tmp_path, "many_teachers_choice").kd_weight.tolist() == list(many_teachers.KD_WEIGHTS)


# Borrowed weights.


def test_every_other_block_copies_the_stem_the_head_and_the_first_block_of_each_stage(big: nn.Module) -> None:
    before = weights(big)
    student = many_teachers.every_other_block(big)
    state = student.state_dict()
    prefixes = ("conv.", "bn.", "head.", "stage1.0.", "stage2.0.", "stage3.0.")
    wanted = {name: value for name, value in before.items() if name.startswith(prefixes)}
    assert same_bits(dict(state), wanted)
    assert any("running_var" in name for name in state) and len(wanted) < len(before)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert same_bits(weights(big), before), "the student shares memory with its teacher"


def test_shuffled_keeps_the_numbers_of_each_parameter_and_changes_their_order(big: nn.Module) -> None:
    start = many_teachers.every_other_block(big)
    before = weights(start)
    found = many_teachers.shuffled(many_teachers.every_other_block(big), seed=0)
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter.detach().flatten().sort().values, before[name].flatten().sort().values), name
        assert not torch.equal(parameter, before[name]), name
    for name, buffer in found.named_buffers():
        assert torch.equal(buffer, before[name]), name
    again = many_teachers.shuffled(many_teachers.every_other_block(big), seed=0)
    other = many_teachers.shuffled(many_teachers.every_other_block(big), seed=1)
    assert same_bits(weights(found), weights(again)) and not same_bits(weights(found), weights(other))


@pytest.mark.parametrize("name", STARTS)
def test_a_start_is_measured_before_and_after_and_never_twice(
    lab: many_teachers.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls = []
    real = kd.distill

    def distill(model: nn.Module, *rest: Any, **options: Any) -> Any:
        calls.append((weights(model), rest, options))
        return real(model, *rest, **options)

    monkeypatch.setattr(many_teachers.kd, "distill", distill)
    many_teachers.start(lab, name, 0)
    ((begin, rest, options),) = calls
    copied = same_bits(begin, weights(many_teachers.every_other_block(lab.big)))
    assert copied == (name == "every other block")
    assert torch.equal(rest[0], lab.says("resnet14", 0)["train"]) and rest[1] is lab.train
    assert (options["kd_weight"], options["ce_weight"], options["seed"]) == (1.0, 0.0, 0)
    found = rows(tmp_path, "many_teachers_start").iloc[0]
    assert (found.start, found.seed, found.n) == (name, 0, 30)
    model = kd.models.resnet(8)
    model.load_state_dict(begin)
    assert np.isclose(found.accuracy_before, kd.evaluate(model, lab.test)["accuracy"], atol=1e-5)
    many_teachers.start(lab, name, 0)
    assert len(calls) == 1


# What is shipped.


def test_every_run_of_the_study_is_recorded_and_nothing_else() -> None:
    arms, choice, start = (pd.read_csv(FOLDER / f"many_teachers{end}.csv") for end in ("", "_choice", "_start"))
    planned = [run for part in many_teachers.parts() for run in part]
    assert set(zip(arms.arm, arms.seed, strict=True)) == {
        (name, s) for part, name, s in planned if part is many_teachers.measure
    }
    assert set(zip(start.start, start.seed, strict=True)) == {
        (name, s) for part, name, s in planned if part is many_teachers.start
    }
    assert set(zip(choice.arm, choice.seed, strict=True)) == {
        (name, s) for part, name, s in planned if part is many_teachers.choice
    }
    assert len(arms) == len(ARMS) * len(SEEDS) and len(start) == len(STARTS) * len(SEEDS)
    assert len(choice) == len(OWN) * len(many_teachers.KD_WEIGHTS) * len(many_teachers.CHOICE_SEEDS)
    for name, found in arms.groupby("arm"):
        assert set(found.kd_weight) == {many_teachers.chosen(str(name))} and set(found.width) == {ARMS[str(name)].width}
        assert found.teacher_accuracy.notna().all() == bool(ARMS[str(name)].teachers)
