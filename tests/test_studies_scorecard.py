"""The study behind chapter 13: what it measures is what the functions say, and its record is whole."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
import torch

import kdutils as kd
from kdutils import explain
from kdutils.studies import scorecard
from kdutils.studies._record import FOLDER


@pytest.mark.parametrize(
    ("name", "images"), [(scorecard.SCORES, scorecard.IMAGES), (scorecard.STEADINESS, scorecard.FEW)]
)
def test_the_record_holds_every_run_once(name: str, images: int) -> None:
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter((row["model"], row["map"]) for row in rows)
    assert counts == dict.fromkeys(scorecard.runs(), images)
    shares = ("deletion", "insertion", "road", "unexplained")
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in row if key.startswith(shares))


def test_a_recorded_row_is_what_a_new_run_gives() -> None:
    model, _ = scorecard.network("student")
    images = scorecard.sample()[:8]
    targets = kd.predict(model, images).argmax(1)
    maps = scorecard.competitor(images, "edges")
    found = scorecard.faithfulness(model, images, maps, targets)
    with (FOLDER / "scorecard.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["model"], row["map"]) == ("student", "edges")][:8]
    for measure in ("gap", "rise"):
        recorded = torch.tensor([float(row[measure]) for row in rows])
        torch.testing.assert_close(found[measure], recorded, rtol=1e-3, atol=1e-2)


def test_a_competitor_is_shaken_as_a_method_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fresh = scorecard.network("student")
    images = scorecard.sample()[:4]
    targets = kd.predict(model, images).argmax(1)
    of_a_method = scorecard.steadiness(model, fresh, images, targets, "saliency")
    monkeypatch.setattr(
        scorecard, "competitor", lambda moved, _name: explain.attribute(model, moved, targets, "saliency")
    )
    as_a_competitor = scorecard.steadiness(model, fresh, images, targets, "edges")
    torch.testing.assert_close(as_a_competitor["sensitivity"], of_a_method["sensitivity"])
