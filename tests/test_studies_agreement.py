"""The study of how students explain themselves: what it measures, and that it survives being killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kdutils as kd
from kdutils import explain
from kdutils.studies import agreement


def test_a_networks_maps_agree_with_themselves() -> None:
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
