"""The lines of "Your own two networks" are run as they stand, with networks that kdutils has not seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kdutils as kd
from tests.common import fashion

PAGE = Path(__file__).parents[1] / "book" / "own_networks.md"


class MyTeacher(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 5, stride=3)
        self.norm = nn.BatchNorm2d(width)
        self.out = nn.Linear(width * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.conv(x)).relu().flatten(1))  # type: ignore[no-any-return]


class MyStudent(MyTeacher):
    def __init__(self) -> None:
        super().__init__(4)


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page calls yours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDUTILS_PROGRESS", "0")
    train, test = (part[:600] for part in fashion())
    teacher = MyTeacher()
    kd.fit(teacher, train, epochs=3, batch_size=32, augment=False)
    torch.save(teacher.state_dict(), "teacher.pt")
    x, y = train.tensors()
    x_test, y_test = test.tensors()
    shown = {"pixels": train.images.float() / 255, "names": train.classes, "mean": train.mean, "std": train.std}
    return {
        "MyTeacher": MyTeacher, "MyStudent": MyStudent, "x": x, "y": y, "x_test": x_test, "y_test": y_test, **shown
    }  # fmt: skip


def test_the_page_runs(env: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    cells = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(cells) == 4
    for cell in cells[:3]:  # the fourth reads a folder
        exec(compile(cell, str(PAGE), "exec"), env)
        if "history" in cell:
            assert env["history"]["teacher_accuracy"][-1] > 0.7
            assert env["history"]["train_accuracy"][-1] > 0.7
    assert re.search(r"gain, points: [+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\], n = 5", capsys.readouterr().out)
    assert torch.load("student.pt", weights_only=True).keys() == MyStudent().state_dict().keys()
    assert env["train"].normalise(env["train"].images).allclose(env["x"], atol=1e-5)
