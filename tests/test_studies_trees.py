"""The study behind chapter 16: what it measures is what it says, and its records are whole."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier

import kdutils as kd
from kdutils.studies import trees as study
from kdutils.studies._record import FOLDER
from kdutils.trees import SoftDecisionTree
from tests.common import random_set


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_records_hold_every_run_once() -> None:
    found = Counter((row["depth"], row["arm"], row["seed"]) for row in rows("trees"))
    wanted = [(str(study.DEPTH), arm, str(seed)) for arm in study.ARMS for seed in study.SEEDS]
    arms = ("labels", "distilled")
    wanted += [(str(depth), arm, str(seed)) for depth in study.DEPTHS for arm in arms for seed in study.FEWER]
    assert found == Counter(wanted)
    found = Counter((row["depth"], row["arm"], row["seed"]) for row in rows("trees_digits"))
    assert found == Counter(
        (str(depth), arm, str(seed)) for depth in study.DIGIT_DEPTHS for arm in arms for seed in study.FEWER
    )
    tried = Counter((row["stage"], row["lr"], row["balance"], row["temperature"]) for row in rows("trees_choice"))
    assert set(tried.values()) == {len(study.CHOICE_SEEDS)}
    assert Counter(stage for stage, *_ in tried) == {name: len(values) for name, values in study.STAGES.items()}


def test_every_surrogate_is_there_with_its_control() -> None:
    found = Counter(
        (row["model"], row["fitted_to"], row["surrogate"], row["depth"], row["seed"])
        for row in rows("trees_surrogates")
    )
    assert set(found.values()) == {1}
    kinds = [("linear", 1), *(("tree", depth) for depth in range(1, study.MAX_DEPTH + 1))]
    assert set(found) == {
        (model, to, kind, str(depth), str(seed))
        for model in study.EXPLAINED
        for to in (model, "labels")
        for kind, depth in kinds
        for seed in study.FEWER
    }
    for row in rows("trees_surrogates"):
        assert all(0 <= float(row[key]) <= 1 for key in row if key.startswith("fidelity"))


def test_an_ordinary_tree_cut_off_is_one_that_never_grew_further() -> None:
    draw = np.random.default_rng(0)
    pixels, labels = draw.integers(0, 256, (300, 20), dtype=np.uint8), draw.integers(3, 7, 300)
    whole = DecisionTreeClassifier(max_depth=5, random_state=0).fit(pixels[:200], labels[:200])
    found = study.answers_by_depth(whole, pixels)
    assert (found[-1] == whole.predict(pixels)).all()
    for depth in (1, 2, 3):
        small = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(pixels[:200], labels[:200])
        assert (found[depth - 1] == small.predict(pixels)).mean() > 0.99  # a tie may be broken otherwise


def test_the_walk_takes_the_likelier_side_at_every_node() -> None:
    data = random_set(30)
    with kd.seeded(0):
        tree = SoftDecisionTree(64, 10, 3)
    walked = study.walk(tree, data)
    inputs, _ = data.tensors()
    for i in range(len(data)):
        node = 0
        while node < 7:
            with torch.no_grad():
                node = 2 * node + (2 if float(tree.gates(inputs[i].flatten())[node]) > 0 else 1)
        assert walked[i] == node - 7
    found = study.reading(tree, data)
    assert found["n"] == 30 and 1 / 8 < found["path_share"] <= 1 and 1 <= found["leaves_used"] <= 8


@pytest.mark.parametrize("arm", study.ARMS)
def test_every_arm_trains_on_what_its_name_says(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, kept = random_set(40), {}
    soft = torch.randn(1, 40, 10, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(kd, "distill", lambda tree, soft, train, **options: kept.update(options, soft=soft))
    study.grow(data, soft, arm, 2, 0, {"balance": 0.1, "temperature": 2.0, "lr": 0.01})
    names = {term.name for term in kept["terms"]}
    assert ("balance" in names) == ("no penalty" not in arm)
    assert ("leaves" in names) == ("leaf by leaf" in arm)
    weights = kept["kd_weight"], kept["ce_weight"]
    assert weights == ((0, 0) if "leaf by leaf" in arm else (0, 1) if arm.startswith("labels") else (1, 0))
    for term in kept["terms"]:
        assert term.labels == (term.name == "leaves" and arm.startswith("labels"))
    same = (kept["soft"] == soft).all(2)[0]
    assert not same.any() if arm == "permuted teacher" else same.all()
