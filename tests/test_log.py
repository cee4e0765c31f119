"""What `log_dir` writes, read by TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import kdutils as kd
from kdutils import _checkpoint
from tests import kills
from tests.common import pixels, random_set

pytestmark = pytest.mark.filterwarnings("ignore:the teacher is right on")


class Stop(Exception):
    """What interrupts a run."""


def run(folder: Path, stop: int = 99, **options: Any) -> kd.History:
    """3 epochs of 5 steps, with a term and a validation set; interrupted after `stop` steps."""
    left = [stop]

    def hint(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return kd.losses.hint_loss(student, teacher)

    options = {"epochs": 3, "batch_size": 8, "lr": 0.05, "progress": False, "log_dir": folder / "log"} | options
    terms = [kd.Term("hint", hint, 0.1, "conv", "conv")]
    return kd.distill(pixels(1), pixels(2), random_set(), terms=terms, validation=random_set(seed=5), **options)


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {name: [(each.step, each.value) for each in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def check(found: dict[str, list[tuple[int, float]]], history: kd.History) -> None:
    """Each row of the history is there, once, in its order."""
    assert found.keys() == history.keys() | {"images_per_second"}
    for name, values in history.items():
        assert [step for step, _ in found[name]] == list(range(1, len(values) + 1)), name
        torch.testing.assert_close(torch.tensor([value for _, value in found[name]]), torch.tensor(values))


def test_every_term_accuracy_rate_and_speed_is_logged(tmp_path: Path) -> None:
    history = run(tmp_path)
    assert {"loss", "kd", "ce", "hint", "train_accuracy", "teacher_accuracy", "val_accuracy", "lr"} < history.keys()
    found = logged(tmp_path / "log")
    check(found, history)
    for (_, speed), seconds in zip(found["images_per_second"], history["seconds"], strict=True):
        assert speed == pytest.approx(40 / seconds)


@pytest.mark.parametrize(("stop", "every"), [(3, 1), (3, 99), (5, 1), (7, 2), (7, 99), (11, 3), (14, 99)])
def test_a_resumed_run_writes_no_step_twice_and_leaves_none_out(tmp_path: Path, stop: int, every: int) -> None:
    options: dict[str, Any] = {"checkpoint": tmp_path / "run", "checkpoint_every": every, "resume": True}
    with pytest.raises(Stop):
        run(tmp_path, stop, **options)
    # TensorBoard reads files in the order of their names: second, process, count. The tenth comes before the ninth.
    time.sleep(1 - time.time() % 1)
    history = run(tmp_path, **options)
    check(logged(tmp_path / "log"), history)


def test_another_run_takes_the_place_of_the_one_that_was_shown(tmp_path: Path) -> None:
    run(tmp_path)
    time.sleep(1 - time.time() % 1)  # as above
    history = run(tmp_path, epochs=2, seed=1)
    check(logged(tmp_path / "log"), history)


def train_and_log(folder: Path) -> None:
    torch.set_num_threads(1)
    kd.fit(
        pixels(1), random_set(200), epochs=8, batch_size=20, lr=0.05, checkpoint=folder / "run", checkpoint_every=5,
        resume=True, log_dir=folder / "log", progress=False,
    )  # fmt: skip


def test_what_a_checkpoint_counts_as_done_has_been_logged(tmp_path: Path) -> None:
    process = kills.start(kills.dies_in_the_midst, train_and_log, tmp_path, 4, "there")  # at the end of epoch 2
    process.join()
    assert process.exitcode == -signal.SIGKILL
    facts = _checkpoint.read(tmp_path / "run")[1]
    assert (facts["epoch"], facts["step"]) == (2, 0)
    check(logged(tmp_path / "log"), facts["history"])


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_what_a_killed_run_has_logged(tmp_path: Path, count: int) -> None:
    """After each kill TensorBoard shows all the epochs of the checkpoint, and after the end each of them once."""
    folder = tmp_path / "killed"
    (tmp_path / "undisturbed").mkdir()
    whole = kills.undisturbed(train_and_log, tmp_path / "undisturbed")
    ends = []

    def end() -> None:
        history = _checkpoint.read(folder / "run")[1]["history"]
        assert len(history["loss"]) == 8
        check(logged(folder / "log"), history)
        ends.append(len(history))
        (folder / "run").unlink()  # the next one begins anew, in the same folder

    def dead() -> None:
        if (folder / "run").exists():
            history = _checkpoint.read(folder / "run")[1]["history"]
            found = dict(logged(folder / "log")["loss"]) if history else {}
            for epoch, loss in enumerate(history.get("loss", []), 1):
                assert found[epoch] == pytest.approx(loss)

    folder.mkdir()
    kills.killed(train_and_log, (folder,), count, whole, end=end, dead=dead)
    assert len(ends) >= count


def test_without_tensorboard_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else real(name, *a))
    for verb, models in ((kd.fit, (pixels(1),)), (kd.distill, (pixels(1), pixels(2))), (kd.mutual, ([pixels(1)],))):
        with pytest.raises(ImportError, match=r"^log_dir needs the package tensorboard: pip install tensorboard\.$"):
            verb(*models, random_set(), epochs=1, log_dir=tmp_path / "log")  # type: ignore[operator]
    assert not (tmp_path / "log").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("dear")
    with pytest.raises(ValueError, match=r"log_dir must be a folder, got the file '.*log'\.$"):
        run(tmp_path)
