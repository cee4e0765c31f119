"""The studies of chapter 03: soft labels without one class, of equal entropy, and of people."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdutils.studies import dark_knowledge, human_labels
from kdutils.studies._record import FOLDER, Record
from tests.common import fashion

CLASSES = 10
LEFT_OUT, ENTROPY = dark_knowledge.STUDIES


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A study in small: 200 images, two steps, a teacher made of random logits that favour the label."""
    monkeypatch.setattr(dark_knowledge, "IMAGES", 150)
    monkeypatch.setattr(dark_knowledge, "STEPS", 2)
    train, test = fashion()[0][:200], fashion()[1]
    generator = torch.Generator().manual_seed(0)
    soft = torch.randn(2, 200, CLASSES, generator=generator) + 3 * F.one_hot(train.labels, CLASSES)
    teacher_test = torch.randn(60, CLASSES, generator=generator)
    return SimpleNamespace(train=train, validation=test[100:160], test=test[:60], soft=soft, teacher_test=teacher_test)


def rows(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.csv").read_text().splitlines()


@pytest.mark.parametrize("left_out", [None, 0, 6])
def test_the_class_that_is_left_out_is_absent_and_logits_stay_with_their_images(
    lab: SimpleNamespace, left_out: int | None
) -> None:
    images, soft = dark_knowledge.transfer_set(lab, 3, left_out)
    whole, _ = dark_knowledge.transfer_set(lab, 3, None)
    assert set(images.labels.tolist()) == set(range(CLASSES)) - {left_out}
    assert len(images) == int((whole.labels != left_out).sum()) if left_out is not None else len(images) == 150
    positions = (soft[0, :, None, 0] == lab.soft[0, None, :, 0]).nonzero()[:, 1]  # random numbers: no two are equal
    assert len(positions) == len(images) == len(positions.unique())
    assert torch.equal(images.images, lab.train.images[positions])
    assert torch.equal(soft, lab.soft[:, positions])


@pytest.mark.parametrize("arm", dark_knowledge.LEFT_OUT_ARMS)
def test_no_arm_is_trained_on_the_class_that_is_left_out(
    lab: SimpleNamespace, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    for name, position in (("fit", 1), ("distill", 2)):
        monkeypatch.setattr(dark_knowledge.kd, name, lambda *a, p=position, **k: seen.append(set(a[p].labels.tolist())))
    dark_knowledge.student(lab, arm, 0, left_out=4)
    assert seen == [set(range(CLASSES)) - {4}]


def test_the_bias_is_chosen_on_validation_images(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def logits(images: Any, needed: float) -> Tensor:
        """Right everywhere, but class 4 comes `needed` too low, and others lose beyond `needed` + 1."""
        z = F.one_hot(images.labels, CLASSES).float()
        z[:, 4] = torch.where(images.labels == 4, 1 - needed, -needed)
        z[images.labels == 4, 5] = 1.0 - 0.05
        return z

    monkeypatch.setattr(dark_knowledge, "student", lambda *args: None)
    found = {id(lab.validation): logits(lab.validation, 3.0), id(lab.test): logits(lab.test, 9.0)}
    monkeypatch.setattr(dark_knowledge, "logits_and_labels", lambda _, images: (found[id(images)], images.labels))
    dark_knowledge.do(lab, (LEFT_OUT, {"left_out": 4, "arm": "soft", "seed": 0}), tmp_path)
    header, row = rows(tmp_path, LEFT_OUT)
    got = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(got["bias"]) == 3.0  # what is best on the test images is 9
    assert float(got["recall"]) == float(got["corrected_recall"]) == 0
    assert float(got["auc"]) > 0.99


def test_the_chosen_bias_is_the_best_and_the_smallest_of_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, CLASSES, generator=generator), torch.randint(CLASSES, (300,), generator=generator)
    chosen = dark_knowledge.choose_bias(logits, labels, 2)
    scores = {}
    for bias in dark_knowledge.BIASES.tolist():
        moved = logits.clone()
        moved[:, 2] += bias
        scores[bias] = float((moved.argmax(1) == labels).double().mean())
    best = [bias for bias, score in scores.items() if score == max(scores.values())]
    assert chosen in best and abs(chosen) == min(map(abs, best))
    assert dark_knowledge.choose_bias(logits * 0 + F.one_hot(labels, CLASSES) * 50, labels, 2) == 0


def test_no_bias_changes_the_auc() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(400, CLASSES, generator=generator), torch.randint(CLASSES, (400,), generator=generator)
    plain = dark_knowledge.auc(logits, labels, 7)
    assert plain == pytest.approx(dark_knowledge.auc(dark_knowledge.add_bias(logits, 7, 5.0), labels, 7), abs=1e-3)
    assert plain == pytest.approx(0.5, abs=0.12)
    logits[:, 7] += 100 * (labels == 7)
    assert dark_knowledge.auc(logits, labels, 7) == 1


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_smoothed_label_is_as_uncertain_as_the_soft_one_and_says_nothing_else(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    soft = 6 * torch.randn(2, 50, CLASSES, generator=generator)
    labels = torch.randint(CLASSES, (50,), generator=generator)
    stored = dark_knowledge.smoothed_logits(soft, labels, temperature)
    assert stored.shape == soft.shape and bool(stored.isfinite().all())
    p, q = ((z.double() / temperature).softmax(-1) for z in (soft, stored))
    torch.testing.assert_close(torch.xlogy(q, q).sum(-1), torch.xlogy(p, p).sum(-1), rtol=1e-4, atol=1e-5)
    assert torch.equal(q.argmax(-1), labels.expand(2, -1))
    others = q.masked_fill(F.one_hot(labels, CLASSES).bool(), torch.nan)
    low, high = others.nan_to_num(torch.inf).amin(-1), others.nan_to_num(-torch.inf).amax(-1)
    torch.testing.assert_close(low, high, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("entropy", [0.0, float(np.log(CLASSES))])
def test_the_ends_of_the_entropy_scale(entropy: float) -> None:
    p = dark_knowledge.smooth_to_entropy(torch.tensor([3]), torch.tensor([entropy]), CLASSES)
    wanted = torch.eye(CLASSES)[3] if entropy == 0 else torch.full((CLASSES,), 1 / CLASSES)
    torch.testing.assert_close(p[0], wanted.double(), atol=1e-3, rtol=0)


def test_both_studies_go_on_where_they_stopped(
    lab: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = [(LEFT_OUT, {"left_out": 1, "arm": "soft", "seed": 0})]
    done += [(ENTROPY, {"arm": arm, "seed": 0}) for arm in dark_knowledge.ENTROPY_ARMS]
    for run in done:
        dark_knowledge.do(lab, run, tmp_path)
    before = rows(tmp_path, LEFT_OUT), rows(tmp_path, ENTROPY)
    assert (len(before[0]), len(before[1])) == (2, 1 + len(dark_knowledge.ENTROPY_ARMS))

    def never(*args: Any) -> None:
        raise AssertionError("a recorded run was repeated")

    monkeypatch.setattr(dark_knowledge, "student", never)
    for run in done:
        dark_knowledge.do(lab, run, tmp_path)
    assert (rows(tmp_path, LEFT_OUT), rows(tmp_path, ENTROPY)) == before
    with pytest.raises(AssertionError, match="repeated"):
        dark_knowledge.do(lab, (ENTROPY, {"arm": "soft", "seed": 1}), tmp_path)


def test_a_run_is_the_same_twice(lab: SimpleNamespace) -> None:
    a, b = (dark_knowledge.student(lab, "permuted", 1, left_out=2) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_every_run_of_the_studies_is_recorded_and_nothing_else() -> None:
    runs = dark_knowledge.runs()
    assert len(runs) == len({(name, *run.values()) for name, run in runs})
    for name, (_, keys) in dark_knowledge.STUDIES.items():
        record = Record(name, keys)
        wanted = [run for study, run in runs if study == name]
        assert all(record.has(**run) for run in wanted)
        assert len(record.rows()) == len(wanted)


# People's labels


def people(n: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """(labels, teacher's logits, people's soft labels) with classes 2k and 2k + 1 alike for both."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % CLASSES
    near = labels + 1 - 2 * (labels % 2)
    logits = 0.5 * torch.randn(n, CLASSES, generator=generator)
    doubt = torch.rand(n, generator=generator) * 4
    logits[torch.arange(n), labels] += 8 - doubt
    logits[torch.arange(n), near] += doubt
    counts = torch.zeros(n, CLASSES).double()
    said = (doubt / 5 * 20).long()
    counts[torch.arange(n), labels] = (50 - said).double()
    counts[torch.arange(n), near] = said.double()
    return labels, logits, counts / 50


@pytest.fixture(scope="module")
def comparison() -> dict[tuple[str, str], dict[str, float]]:
    labels, logits, human = people()
    found = human_labels.compare(logits, 2.0, labels, human, bootstraps=50)
    return {(str(row["measure"]), str(row["source"])): row for row in found}  # type: ignore[misc]


def test_a_teacher_that_doubts_what_people_doubt_is_found_like_them(comparison: Any) -> None:
    value = {key: row["value"] for key, row in comparison.items()}
    assert value["accuracy", "teacher"] > 0.9 and value["accuracy", "people"] == 1
    assert value["entropy correlation", "teacher"] > 0.8
    assert abs(value["entropy correlation", "permuted, fitted T"]) < 0.2
    assert value["second choice", "teacher"] > 0.8
    assert value["class structure", "teacher"] > 0.5
    assert value["class structure, p value", "teacher"] < 0.01
    assert value["kl", "hard label"] == np.inf and value["infinite", "hard label"] > 0.5
    assert value["kl", "teacher, fitted T"] < value["kl", "permuted, fitted T"]
    assert value["other classes", "smoothed label"] == pytest.approx(np.log(9))


def test_temperature_does_not_change_the_second_choice(comparison: Any) -> None:
    plain, fitted = (comparison["second choice", name]["value"] for name in ("teacher", "teacher, fitted T"))
    assert plain == fitted


def test_every_interval_holds_its_value(comparison: Any) -> None:
    for row in comparison.values():
        assert row["low"] <= row["value"] <= row["high"]


def test_the_two_divergences_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]).double(), torch.tensor([[0.25, 0.5, 0.25]]).double()
    assert human_labels.cross_entropy(p, q).item() == pytest.approx(1.5 * np.log(2))
    assert human_labels.entropy(p).item() == pytest.approx(np.log(2))
    assert human_labels.cross_entropy(p, torch.tensor([[1.0, 0.0, 0.0]]).double()).isinf().all()
    assert human_labels.without_label(q, torch.tensor([1])).tolist() == [[0.5, 0.0, 0.5]]


def test_the_correlation_of_two_structures_and_its_p_value() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((CLASSES, CLASSES))
    a = a + a.T
    found, p_value = human_labels.same_structure(a, np.exp(3 * a), permutations=500)
    assert found == pytest.approx(1) and p_value == pytest.approx(1 / 501)
    b = rng.random((CLASSES, CLASSES))
    found, p_value = human_labels.same_structure(a, b + b.T, permutations=500)
    assert abs(found) < 0.5 and p_value > 0.02


def test_one_who_has_no_data_is_told_what_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["human_labels", "--cifar10h", str(tmp_path / "cifar10h-probs.npy")])
    with pytest.raises(SystemExit, match=r"get cifar10h-probs\.npy from github\.com/jcpeterson/cifar-10h"):
        human_labels.main()
    np.save(tmp_path / "cifar10h-probs.npy", np.ones((3, 10)))
    with pytest.raises(ValueError, match="10,000"):
        human_labels.load_human(tmp_path / "cifar10h-probs.npy")


def test_nothing_of_peoples_labels_is_in_the_record_but_summaries() -> None:
    lines = rows(FOLDER, "human_labels")
    assert lines[0] == "measure,source,value,low,high,n" and len(lines) < 60
    facts = json.loads((FOLDER / "human_labels.json").read_text())
    assert facts["settings"]["seeds"] == [0] and facts["settings"]["fitted_temperature"] > 1


def test_the_class_mean_says_of_every_image_what_its_class_says_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    soft, labels = 8 * torch.randn(2, 30, 10, generator=generator), torch.arange(30) % 10
    p = (dark_knowledge.class_mean_logits(soft, labels, 4.0) / 4).softmax(-1)
    whole = (soft / 4).softmax(-1)
    for i, label in enumerate(labels):
        wanted = torch.stack([whole[v, j] for v in range(2) for j in range(30) if labels[j] == label]).mean(0)
        torch.testing.assert_close(p[0, i], wanted)
        torch.testing.assert_close(p[1, i], wanted)
