"""The study of chapter 14: its record has no gap, its numbers are what it says, and it survives being killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import kdutils as kd
from kdutils import explain
from kdutils.studies import agreement
from kdutils.studies._record import FOLDER

KEYS = list(agreement.MAP_KEYS)


def maps() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "agreement.csv")


def test_the_record_has_every_arm_seed_teacher_and_explainer_once_and_no_gap() -> None:
    wanted = {(r["arm"], r["teacher"], r["seed"], name) for r in agreement.runs() for name in agreement.EXPLAINERS}
    table = maps()
    assert len(table) == len(wanted)
    assert set(table[KEYS].itertuples(index=False, name=None)) == wanted
    no_network = table.arm.isin(["edges", "centre blob", "mean map"])
    assert not table[~no_network].isna().any(axis=None)
    assert not table.drop(columns=["own_by_own", "own_by_teacher", "own_by_chance"]).isna().any(axis=None)


def test_every_network_of_the_record_was_evaluated() -> None:
    table = pd.read_csv(FOLDER / "agreement_models.csv")
    wanted = {tuple(run.values()) for run in agreement.runs() if run["arm"] not in agreement.FIXED[1:]}
    assert set(table[list(agreement.KEYS)].itertuples(index=False, name=None)) == wanted
    assert (table.n == 10_000).all()


def test_the_pilot_used_other_seeds_than_the_study() -> None:
    assert not set(pd.read_csv(FOLDER / "agreement_pilot.csv").seed) & set(agreement.SEEDS)
    assert not set(pd.read_csv(FOLDER / "agreement_choice.csv").seed) & set(agreement.SEEDS)


def test_measures_lie_in_their_ranges() -> None:
    table = maps()
    for measure in (*explain.MEASURES, "absolute"):
        for name in (measure, f"{measure}_other"):
            assert table[name].between(-1, 1).all()
    for share in ("wins", "both_right", "teacher_by_ours"):
        assert table[share].between(0, 1).all()
    assert table.flat.between(0, agreement.SAMPLE).all()


def test_independent_students_win_against_each_other_half_of_the_time() -> None:
    null = maps().query("arm == 'labels'").groupby(["teacher", "explainer"]).wins.mean()
    assert null.between(0.45, 0.55).all()


def test_a_recorded_row_is_what_a_new_run_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDUTILS_HOME", str(tmp_path))
    monkeypatch.setattr(agreement, "FOLDER", tmp_path)
    monkeypatch.setattr(agreement, "EXPLAINERS", {"grad_cam": {}})
    monkeypatch.setattr(
        agreement, "rival_cosines", lambda *_: {"grad_cam": torch.full((agreement.SAMPLE,), 2.0)}
    )  # no rival: it would have to be trained
    lab = agreement.Lab()
    agreement.measure(lab, "untrained", "first", 3)
    found = pd.read_csv(tmp_path / "agreement.csv").iloc[0]
    recorded = (
        maps().query("arm == 'untrained' and teacher == 'first' and seed == 3 and explainer == 'grad_cam'").iloc[0]
    )
    for name in recorded.index.drop([*KEYS, "wins"]):
        assert found[name] == pytest.approx(recorded[name], abs=2e-3), name
    assert found.wins == 0


def test_a_networks_maps_agree_with_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kd.zoo.load("fashion_mnist/tiny_cnn")
    images, labels = kd.data.load("fashion_mnist")[1].subset(20, seed=0).tensors()
    targets = kd.predict(model, images).argmax(1)
    own = explain.attribute(model, images, targets, "grad_cam")
    case = agreement.Case("test", "first", images, labels, targets, {"grad_cam": own})

    lab = SimpleNamespace(teachers={"first": model})
    row = agreement.compared(lab, case, "grad_cam", model, own, torch.zeros(20))  # type: ignore[arg-type]
    assert row["cosine"] == pytest.approx(1, abs=1e-5) and row["spearman"] == pytest.approx(1, abs=1e-5)
    assert row["cosine_other"] < 0.99
    assert row["wins"] == 1
    assert row["own_by_own"] == row["own_by_teacher"] == row["teacher_by_ours"]
    assert row["both_right"] == pytest.approx(float((targets == labels).float().mean()))


SMALL = """
import sys, torch
from pathlib import Path
from kdutils.selection import Split, split
from kdutils.studies import agreement as a
whole = split()
a.split = lambda: Split(*(part[:600] for part in whole))
a.FOLDER = Path(sys.argv.pop())
a.TEACHERS = {"first": "fashion_mnist/tiny_cnn_distilled", "second": "fashion_mnist/tiny_cnn"}
a.EXPLAINERS = {"grad_cam": {}, "integrated_gradients": {"steps": 4}}
a.IMAGES, a.EPOCHS, a.SAMPLE, a.PROBED, a.SHORTER, a.LONGER = 300, 2, 12, 4, (1,), (3,)
a.SEEDS, a.CHOICE_SEEDS, a.FIXED = range(2), range(100, 102), a.FIXED
a.main()
"""


@pytest.mark.slow
def test_a_study_that_is_killed_ends_as_one_that_is_not(tmp_path: Path) -> None:
    ends = []
    for name, kills in (("undisturbed", 0), ("killed", 6)):
        folder = tmp_path / name
        folder.mkdir()
        environment = os.environ | {"KDUTILS_HOME": str(tmp_path / f"{name} cache"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SMALL, str(folder)]
        chance = random.Random(0)
        for _ in range(kills):
            process = subprocess.Popen(command, env=environment, start_new_session=True)
            time.sleep(8 + chance.uniform(0, 12))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(command, env=environment, check=True)
        ends.append({path.name: path.read_text() for path in sorted(folder.glob("*.csv"))})
    assert len(ends[0]) == 5
    assert ends[0] == ends[1]
