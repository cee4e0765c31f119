"""Recorded studies: the file that a run is written to, and the recorded files themselves."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from kdutils.studies import _jobs, _record, teacher
from kdutils.studies._record import Record
from tests.common import fashion

RECORDED = sorted(_record.FOLDER.glob("*.csv"))


def record(tmp_path: Path) -> Record:
    return Record("study", keys=("arm", "seed"), folder=tmp_path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_run_is_made_once_whatever_the_number_of_jobs(jobs: int, tmp_path: Path) -> None:
    runs = record(tmp_path)
    _jobs.spread(lambda seed: runs.add(arm="a", seed=seed, value=seed / 3), range(7), jobs)
    assert sorted(int(row["seed"]) for row in runs.rows()) == [*range(7)]


def test_a_run_that_fails_stops_the_study(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _jobs.spread(lambda seed: 1 / seed, [1, 0], 1)


def test_a_finished_study_is_sorted_and_names_its_seeds(tmp_path: Path) -> None:
    runs = record(tmp_path)
    for seed in (2, 0):
        for arm in ("b", "a"):
            runs.add(arm=arm, seed=seed, accuracy=0.5)
    runs.finish(("arm", "seed"), steps=3)
    assert [(row["arm"], row["seed"]) for row in runs.rows()] == [("a", "0"), ("a", "2"), ("b", "0"), ("b", "2")]
    assert json.loads(runs.path.with_suffix(".json").read_text())["settings"] == {"steps": 3, "seeds": [0, 2]}


def test_a_name_may_hold_a_comma_and_a_quote(tmp_path: Path) -> None:
    record = Record("study", keys=("arm", "seed"), folder=tmp_path)
    for name in ("four, averaged", 'so-called "best"'):
        record.add(arm=name, seed=0, accuracy=0.5)
        assert record.has(arm=name, seed=0)
        assert record.rows()[-1] == {"arm": name, "seed": "0", "accuracy": "0.5"}


def test_a_run_is_there_after_it_was_added(tmp_path: Path) -> None:
    runs = record(tmp_path)
    assert runs.rows() == []
    assert not runs.has(arm="labels", seed=0)
    runs.add(arm="labels", seed=0, accuracy=0.912345678, n=10_000)
    assert runs.has(arm="labels", seed=0)
    assert not runs.has(arm="labels", seed=1)
    assert not runs.has(arm="distilled", seed=0)
    assert runs.rows() == [{"arm": "labels", "seed": "0", "accuracy": "0.912346", "n": "10000"}]


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    done = []
    for upto in (2, 4):
        runs = record(tmp_path)  # a new process
        for seed in range(upto):
            if not runs.has(arm="a", seed=seed):
                done.append(seed)
                runs.add(arm="a", seed=seed, value=seed / 3)
    assert done == [0, 1, 2, 3]
    assert [row["seed"] for row in runs.rows()] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("value", [4.0, 0.1, 1 / 3, 1e-7, 2, "mean", True])
def test_a_key_of_any_type_is_found_again(tmp_path: Path, value: Any) -> None:
    runs = Record("study", keys=("key",), folder=tmp_path)
    runs.add(key=value, result=1)
    assert runs.has(key=value)


def test_a_row_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    runs = record(tmp_path)
    runs.add(arm="a", seed=0, value=0.25)
    whole = runs.path.read_text()
    runs.path.write_text(whole + "a,1,0.7")  # the machine went down in the middle of a line
    assert not runs.has(arm="a", seed=1)
    assert len(runs.rows()) == 1
    runs.add(arm="a", seed=1, value=0.75)
    assert runs.path.read_text() == whole + "a,1,0.75\n"


def test_columns_that_do_not_fit_the_file_are_refused(tmp_path: Path) -> None:
    runs = record(tmp_path)
    runs.add(arm="a", seed=0, value=0.25)
    before = runs.path.read_bytes()
    with pytest.raises(ValueError, match="columns arm,seed,value"):
        runs.add(seed=1, arm="a", value=0.5)
    assert runs.path.read_bytes() == before


def test_sort_orders_numbers_as_numbers(tmp_path: Path) -> None:
    runs = record(tmp_path)
    for arm, seed in (("b", 10), ("a", 9), ("b", 2), ("a", 10)):
        runs.add(arm=arm, seed=seed, value=1.5)
    runs.sort(("arm", "seed"))
    assert [(row["arm"], row["seed"]) for row in runs.rows()] == [("a", "9"), ("a", "10"), ("b", "2"), ("b", "10")]
    assert all(row["value"] == "1.5" for row in runs.rows())
    assert [path.name for path in tmp_path.iterdir()] == ["study.csv"]


FACTS = {"command", "commit", "date", "device", "threads", "versions", "settings"}


def test_provenance_says_where_a_study_comes_from(tmp_path: Path) -> None:
    runs = record(tmp_path)
    runs.provenance(epochs=3, seeds=[0, 1])
    facts = json.loads((tmp_path / "study.json").read_text())
    assert set(facts) >= FACTS
    assert facts["settings"] == {"epochs": 3, "seeds": [0, 1]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])
    assert {"python", "torch", "numpy"} <= set(facts["versions"])
    assert facts["threads"] >= 1
    assert facts["device"]


def provenance_of(path: Path) -> dict[str, Any]:
    """The JSON beside a CSV; a study's second file may share that of the first: `teacher_curves` → `teacher`."""
    names = [path.stem, path.stem.rsplit("_", 1)[0]]
    found = [path.with_name(f"{name}.json") for name in names if path.with_name(f"{name}.json").exists()]
    assert found, f"{path.name} has no provenance"
    facts: dict[str, Any] = json.loads(found[0].read_text())
    return facts


def test_something_is_recorded() -> None:
    assert RECORDED, "recorded/ holds no CSV: run python -m kdutils.studies.teacher"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_file_is_tidy_and_has_its_provenance(path: Path) -> None:
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert rows
    assert len(set(header)) == len(header)
    assert all(len(row) == len(header) and all(row) for row in rows)
    assert path.read_text().endswith("\n")
    assert len({tuple(row) for row in rows}) == len(rows), "a run is there twice"
    for name in {"accuracy", "val_accuracy", "train_accuracy", "agreement", "ece"} & set(header):
        values = [float(row[header.index(name)]) for row in rows]
        if name == "agreement":  # nan where there is no teacher to agree with
            values = [value for value in values if not math.isnan(value)]
        assert values and all(0 <= value <= 1 for value in values)
    facts = provenance_of(path)
    assert set(facts) >= FACTS
    assert facts["commit"] != "unknown"
    module = facts["command"].split()[2]
    assert facts["command"].startswith("python -m kdutils.studies.")
    assert importlib.util.find_spec(module) is not None
    assert "/" not in facts["command"]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_recorded_seeds_are_those_of_the_provenance(path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if "seed" not in rows[0]:
        pytest.skip("This study has no seeds.")
    seeds = provenance_of(path)["settings"]["seeds"]
    assert sorted({int(row["seed"]) for row in rows}) == sorted(seeds)


def test_the_books_split_is_disjoint_and_seeded() -> None:
    train, validation, test = teacher.split()
    assert (len(train), len(validation), len(test)) == (55_000, 5_000, 10_000)
    whole = Counter(image.numpy().tobytes() for image in fashion()[0].images)
    parts = Counter(image.numpy().tobytes() for part in (train, validation) for image in part.images)
    assert whole == parts
    assert torch.equal(validation.images, fashion()[0].split(5_000, seed=0)[0].images)
