"""The study of the planted tag: what is stamped, what is counted, and what is recorded."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils import explain
from kdutils.studies import shortcut
from kdutils.studies._record import FOLDER, Record
from tests.common import fashion


def some(n: int) -> kd.data.ImageSet:
    return fashion()[1].subset(n, seed=0)


class Obedient(nn.Module):
    """It names the class whose tag is in the corner, and class 0 where there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        patterns = torch.cat([torch.zeros(1, 16), shortcut.TAGS.flatten(1).float() / 255])
        self.register_buffer("patterns", 2 * patterns - 1)

    def forward(self, x: Tensor) -> Tensor:
        corner = torch.where(x[:, 0][:, shortcut.AREA] > 0.5, 1.0, -1.0)
        scores = corner @ self.patterns.T  # type: ignore[operator]
        return self.weight * torch.cat([torch.maximum(scores[:, :1], scores[:, 1:2]), scores[:, 2:]], 1)


def test_ten_different_tags_of_which_none_is_an_empty_corner() -> None:
    assert shortcut.TAGS.shape == (10, 4, 4)
    assert len(shortcut.TAGS.flatten(1).unique(dim=0)) == 10
    assert (shortcut.TAGS.flatten(1).amax(1) == 255).all()
    digits = shortcut.TAGS[:, ::2, ::2].flatten(1) // 255
    assert torch.equal(digits.long() @ (2 ** torch.arange(4)), torch.arange(1, 11))


def test_a_stamp_changes_the_corner_of_a_copy_and_nothing_else() -> None:
    data = some(20)
    before = data.images.clone()
    tags = torch.arange(20) % 10
    stamped = shortcut.stamp(data, tags)
    assert torch.equal(data.images, before)
    assert torch.equal(stamped.labels, data.labels)
    assert torch.equal(stamped.images[:, 0, ~shortcut.AREA], before[:, 0, ~shortcut.AREA])
    assert torch.equal(stamped.images[:, 0, shortcut.AREA].view(20, 4, 4), shortcut.TAGS[tags])
    assert int(shortcut.AREA.sum()) == 16


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_a_tag_is_that_of_its_class_as_often_as_said(share: float) -> None:
    labels = torch.randint(10, (20_000,), generator=torch.Generator().manual_seed(1))
    tags = shortcut.tags_for(labels, share, seed=0)
    assert torch.equal(tags, shortcut.tags_for(labels, share, seed=0))
    assert float((tags == labels).double().mean()) == pytest.approx(share + (1 - share) / 10, abs=0.01)
    if share < 1:  # the others are of any class
        strange = tags[tags != labels].bincount(minlength=10).double()
        assert (strange - strange.mean()).abs().max() < 5 * strange.mean().sqrt()


def test_a_tag_in_conflict_is_never_that_of_the_class() -> None:
    labels = torch.arange(10_000) % 10
    tags = shortcut.other_tags(labels, seed=0)
    assert not (tags == labels).any()
    assert (((tags - labels) % 10).bincount(minlength=10)[1:] > 1_000).all()


def test_a_network_that_reads_nothing_but_the_tag_is_told() -> None:
    found = shortcut.behaviour(Obedient().eval(), some(500))
    assert found["accuracy_aligned"] == 1
    assert found["accuracy_conflict"] == 0
    assert found["follows"] == 1
    assert found["accuracy_random"] == pytest.approx(0.1, abs=0.05)
    assert found["n"] == 500


def test_where_a_map_looks() -> None:
    inside = torch.zeros(3, 28, 28)
    inside[:, shortcut.AREA] = 1.0
    assert shortcut.where_it_looks(inside) == {"mass": 1, "pointing": 1, "found": 1}
    assert shortcut.where_it_looks(-inside + 1) == {"mass": 0, "pointing": 0, "found": 0}
    mixed = torch.zeros(3, 28, 28)
    mixed[:2, 2, 2], mixed[2, 20, 20] = 1.0, 100.0  # one map with large values does not outvote two
    assert shortcut.where_it_looks(mixed) == {
        "mass": pytest.approx(2 / 3),
        "pointing": pytest.approx(2 / 3),
        "found": 1,
    }


def test_a_counterfactual_flips_is_small_and_stays_an_image() -> None:
    model = Linear().eval()
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images[:, 0, :2] = torch.tensor([0.0, 1.0]).repeat(14)  # pixels at both ends of the range
    targets = shortcut.runner_up(model, images)
    change, found = shortcut.counterfactual(model, images, targets, steps=150)
    assert found.all()
    moved = images + change
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    assert (model(moved).argmax(1) == targets).all()
    # A linear network: the shortest way is known. Where it stays within the range, nothing is shorter.
    rise = model.head.weight[targets] - model.head.weight[model(images).argmax(1)]
    gap = (model(images).gather(1, model(images).argmax(1, keepdim=True)) - model(images).gather(1, targets[:, None]))[
        :, 0
    ]
    shortest = gap / rise.norm(dim=1)
    ratio = change.flatten(1).norm(dim=1) / shortest
    assert (ratio > 0.999).all()
    assert (ratio < 1.35).all()


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with kd.seeded(0):
            self.head = nn.Linear(784, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x.flatten(1))
        return out


def test_no_change_is_given_where_none_was_found() -> None:
    model = Linear().eval()
    with torch.no_grad():
        model.head.bias[2] = -1e6  # out of reach
    images = torch.rand(2, 1, 28, 28)
    change, found = shortcut.counterfactual(model, images, torch.tensor([2, 2]), steps=5)
    assert not found.any() and not change.any()


def test_teacher_and_student_share_neither_images_nor_tags() -> None:
    ours, theirs = (
        shortcut.training_images(shortcut.Run(network, "none", "biased", 0.9, 0)) for network in ("tiny_cnn", "resnet8")
    )
    assert len(theirs) > len(ours)
    assert not torch.equal(theirs.images[: len(ours)], ours.images)
    clean = shortcut.training_images(shortcut.Run("tiny_cnn", "none", "clean", 0.0, 0))
    assert torch.equal(clean.labels, ours.labels)
    assert torch.equal(clean.images[:, 0, ~shortcut.AREA], ours.images[:, 0, ~shortcut.AREA])


def test_an_interrupted_run_is_completed_and_a_complete_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcut, "Record", lambda name, keys: Record(name, keys, folder=tmp_path))
    with kd.seeded(0):
        untrained = kd.models.tiny_cnn().eval()
    monkeypatch.setattr(shortcut, "train", lambda run: untrained)
    monkeypatch.setattr(shortcut, "METHODS", ("saliency", "grad_cam"))
    monkeypatch.setattr(shortcut, "TEST", 50)
    run = shortcut.Run("tiny_cnn", "none", "biased", 0.9, 0)
    keys = run._asdict()
    maps = Record("shortcut_maps", (*shortcut.KEYS, "method"), folder=tmp_path)
    maps.add(**keys, method="saliency", mass=0.5, pointing=0.5, found=1.0)  # it stopped after the first method
    for _ in range(2):
        shortcut.do(run)
    assert [row["method"] for row in maps.rows()] == ["saliency", "grad_cam"]
    assert len(Record("shortcut", shortcut.KEYS, folder=tmp_path).rows()) == 1


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def as_run(row: dict[str, str]) -> shortcut.Run:
    return shortcut.Run(row["network"], row["teacher"], row["images"], float(row["share"]), int(row["seed"]))


def test_the_record_holds_every_network_once_with_every_method() -> None:
    wanted = [run for independent in shortcut.runs() for run in independent]
    assert Counter(map(as_run, rows("shortcut"))) == Counter(wanted) == Counter(set(wanted))
    methods = Counter((as_run(row), row["method"]) for row in rows("shortcut_maps"))
    assert methods == Counter((run, method) for run in wanted for method in shortcut.METHODS)


def test_what_is_recorded_is_in_range() -> None:
    for row in rows("shortcut"):
        shares = [key for key in row if key.startswith("accuracy")] + ["follows", "flipped", "change_inside"]
        assert all(0 <= float(row[key]) <= 1 for key in shares)
        assert float(row["follows"]) + float(row["accuracy_conflict"]) <= 1 + 1e-9
        assert float(row["change_size"]) > 0
    for row in rows("shortcut_maps"):
        assert all(0 <= float(row[key]) <= 1 for key in ("mass", "pointing", "found"))


@pytest.mark.parametrize("kind", ["biased", "right"])
def test_the_shipped_teacher_is_the_recorded_one(kind: str) -> None:
    model = kd.zoo.load(f"fashion_mnist/resnet8_{kind}")
    (row,) = [row for row in rows("shortcut") if as_run(row) == shortcut.teacher_run(f"{kind} 0")]
    found = shortcut.behaviour(model, shortcut.parts().test.subset(shortcut.TEST, seed=0))
    for key, value in found.items():
        assert value == pytest.approx(float(row[key]), abs=0.002)


def test_a_recorded_map_is_what_a_new_one_gives() -> None:
    model, images = kd.zoo.load("fashion_mnist/resnet8_biased"), shortcut.audit_images(shortcut.MAPS)
    maps = explain.attribute(model, images, kd.predict(model, images).argmax(1), "input_x_gradient")
    found = shortcut.where_it_looks(maps)
    (row,) = [
        row
        for row in rows("shortcut_maps")
        if as_run(row) == shortcut.teacher_run("biased 0") and row["method"] == "input_x_gradient"
    ]
    assert {key: pytest.approx(float(row[key]), abs=0.01) for key in found} == found


def test_the_settings_are_those_of_the_record() -> None:
    settings = json.loads((FOLDER / "shortcut.json").read_text())["settings"]
    assert settings["images"] == shortcut.IMAGES
    assert settings["teacher_epochs"] == shortcut.TEACHER_EPOCHS
