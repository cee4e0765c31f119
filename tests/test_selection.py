"""Choosing and reporting: the split, the refusal to choose on test scores, paired intervals."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

import kdutils as kd
from kdutils import selection

RUNS = pd.DataFrame(
    {
        "lr": [0.1, 0.1, 0.2, 0.2, 0.4, 0.4],
        "seed": [0, 1, 0, 1, 0, 1],
        "val_accuracy": [0.80, 0.82, 0.84, 0.80, 0.83, 0.80],
        "accuracy": [0.9, 0.9, 0.1, 0.1, 0.1, 0.1],
    }
)


def test_the_split_is_the_same_each_time_and_shares_no_image() -> None:
    parts, again = selection.split(), selection.split()
    assert [len(part) for part in parts] == [55_000, 5_000, 10_000]
    assert all(bool((a.images == b.images).all()) for a, b in zip(parts, again, strict=True))
    everything, test = kd.data.load("fashion_mnist")
    mean = sum(float(part.images.float().sum()) for part in parts[:2])
    assert mean == pytest.approx(float(everything.images.float().sum()), rel=1e-6)
    assert bool((parts.test.labels == test.labels).all())


def test_the_highest_mean_over_the_seeds_is_chosen() -> None:
    assert selection.choose(RUNS, by="lr") == {"lr": 0.2}
    two = RUNS.assign(width=[1, 1, 2, 2, 2, 2])
    assert selection.choose(two, by=["lr", "width"]) == {"lr": 0.2, "width": 2}


def test_of_equal_means_the_first_wins() -> None:
    table = pd.DataFrame({"t": [4, 2], "val_accuracy": [0.5, 0.5]})
    assert selection.choose(table, by="t") == {"t": 2}


@pytest.mark.parametrize("score", ["accuracy", "test_accuracy", "nll"])
def test_nothing_is_chosen_on_test_scores(score: str) -> None:
    with pytest.raises(ValueError, match=f"score must be a validation score.*'{score}'"):
        selection.choose(RUNS, by="lr", score=score)


def test_settings_that_were_tried_more_often_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many runs"):
        selection.choose(RUNS[1:], by="lr")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"by": "LR"}, "no column 'LR'"), ({"by": "lr", "score": "val_nil"}, "no column 'val_nil'")],
)
def test_unknown_columns_are_named(arguments: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        selection.choose(RUNS, **arguments)
    with pytest.raises(ValueError, match="DataFrame"):
        selection.choose(RUNS[:0], **arguments)


def test_the_report_is_the_paired_interval_whatever_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.1, 8), rng.normal(0.9, 0.1, 8)
    table = pd.DataFrame({"arm": ["a"] * 8 + ["b"] * 8, "seed": [*range(8)] * 2, "accuracy": [*a, *b]})
    found = selection.report(table.sample(frac=1, random_state=0), control="a")
    assert list(found) == ["b"]
    assert found["b"] == pytest.approx(kd.interval(b, minus=a))


def test_a_missing_seed_or_control_is_refused() -> None:
    table = pd.DataFrame({"arm": ["a", "a", "b"], "seed": [0, 1, 0], "accuracy": [0.1, 0.2, 0.3]})
    with pytest.raises(ValueError, match="missing of: b"):
        selection.report(table, control="a")
    with pytest.raises(ValueError, match="control must be one of a, b, got 'c'"):
        selection.report(table, control="c")


NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_chapter_hands_the_test_set_to_training(notebook: Path) -> None:
    """In no chapter does `fit` or `distill` get the test set, as training or as validation data."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("kd.fit", "kd.distill", "kd.mutual"):
                given = [ast.unparse(each) for each in (*node.args, *(k.value for k in node.keywords))]
                assert not any(each.split("[")[0].split(".")[0] == "test" for each in given), cell.source
