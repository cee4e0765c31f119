"""Checkpoints: an interrupted run ends as an undisturbed one, and a wrong, damaged or foreign file is refused."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils import _checkpoint
from tests import kills
from tests.common import pixels, random_set, same_bits, weights

pytestmark = pytest.mark.filterwarnings("ignore:the teacher is right on")


class Stop(Exception):
    """What interrupts a run."""


class StopsAfter:
    """A loss that interrupts the run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Stop
        return (student - teacher).square().mean()


def once(stop: int, path: Path | None, resume: bool = False, **changed: Any) -> tuple[dict[str, Any], Any]:
    """A student with dropout, batch norm and a projector, on 40 images in batches of 8: 5 steps an epoch, 15 in all."""
    student, teacher = pixels(1), pixels(2)
    term = kd.Term("hint", StopsAfter(stop), 0.1, "conv", "conv", projector="linear")
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 0.05, "seed": 3} | changed
    data = options.pop("train", random_set())
    history = kd.distill(
        student, options.pop("teacher", teacher), data, terms=[term], checkpoint=path, resume=resume,
        checkpoint_every=options.pop("checkpoint_every", 2), progress=False, **options,
    )  # fmt: skip
    assert term.trained is not None
    return weights(student) | {f"projector {k}": v for k, v in weights(term.trained).items()}, history


def same_history(a: dict[str, list[float]], b: dict[str, list[float]]) -> bool:
    return {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}, {"augment": "flip"}, {"mix": "mixup"}], ids=str)
@pytest.mark.parametrize("stop", [1, 2, 4, 7, 11, 14])
def test_a_resumed_run_ends_to_the_bit_as_an_undisturbed_one(
    tmp_path: Path, options: dict[str, Any], stop: int
) -> None:
    wanted, history = once(99, None, **options)
    with pytest.raises(Stop):
        once(stop, tmp_path / "run.safetensors", **options)
    found, resumed = once(99, tmp_path / "run.safetensors", resume=True, **options)
    assert same_bits(found, wanted)
    assert same_history(resumed, history)
    assert [each.name for each in tmp_path.iterdir()] == ["run.safetensors"]


def test_the_steps_before_the_checkpoint_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        once(9, tmp_path / "run.safetensors")
    term = StopsAfter(8)  # one rehearsal, and the steps 9 to 15: seven
    student = pixels(1)
    kd.distill(
        student, pixels(2), random_set(), terms=[kd.Term("hint", term, 0.1, "conv", "conv", projector="linear")],
        epochs=3, batch_size=8, lr=0.05, seed=3, checkpoint=tmp_path / "run.safetensors", checkpoint_every=2,
        resume=True, progress=False,
    )  # fmt: skip
    assert term.left == 0


def test_fit_mutual_and_loaders_resume_too(tmp_path: Path) -> None:
    def fit(path: Path | None, resume: bool, epochs: int = 4, stop: int = 99) -> dict[str, Tensor]:
        model = pixels(1)
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1
            if count > stop:
                raise Stop

        model.register_forward_pre_hook(counted)
        data = random_set().loader(8, shuffle=True, seed=5)
        kd.fit(model, data, epochs=epochs, lr=0.05, checkpoint=path, resume=resume, checkpoint_every=1, progress=False)
        return weights(model)

    wanted = fit(None, False)
    with pytest.raises(Stop):
        fit(tmp_path / "fit", False, stop=13)  # in the third epoch
    assert same_bits(fit(tmp_path / "fit", True), wanted)

    def mutual(path: Path | None, resume: bool) -> list[dict[str, Tensor]]:
        students = [pixels(1), pixels(2)]
        kd.mutual(students, random_set(), epochs=2, lr=0.05, checkpoint=path, resume=resume, progress=False)
        return [weights(each) for each in students]

    wanted_both = mutual(None, False)
    mutual(tmp_path / "mutual", False)
    assert all(same_bits(a, b) for a, b in zip(mutual(tmp_path / "mutual", True), wanted_both, strict=True))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    wanted, history = once(99, tmp_path / "run")
    found, again = once(1, tmp_path / "run", resume=True)  # one step would be allowed, for the rehearsal
    assert same_bits(found, wanted) and again == history


def test_resume_begins_where_there_is_no_checkpoint_yet(tmp_path: Path) -> None:
    wanted, _ = once(99, None)
    found, _ = once(99, tmp_path / "run", resume=True)
    assert same_bits(found, wanted) and (tmp_path / "run").exists()


def test_momentum_comes_back_in_the_layout_of_its_parameter(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = _checkpoint.optimizer_state(optimizer)
    _checkpoint.write(tmp_path / "x", state, {})
    stored, _ = _checkpoint.read(tmp_path / "x")
    fresh = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    _checkpoint.restore_optimizer(fresh, stored)
    for parameter in model.parameters():
        buffer = fresh.state[parameter]["momentum_buffer"]
        assert torch.equal(buffer, optimizer.state[parameter]["momentum_buffer"])
        assert buffer.stride() == parameter.stride()


OTHER = {
    "epochs": {"epochs": 4},
    "batch_size": {"batch_size": 4},
    "seed": {"seed": 4},
    "lr": {"lr": 0.1},
    "temperature": {"temperature": 2.0},
    "weights": {"kd_weight": 0.5},
    "train": {"train": random_set(seed=1)},
    "teacher 0": {"teacher": pixels(5)},
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path: Path, name: str) -> None:
    once(99, tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=rf"run belongs to another run: {name} was .*, now it is "):
        once(99, tmp_path / "run", resume=True, **OTHER[name])
    assert (tmp_path / "run").read_bytes() == before


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b"", lambda b: b"x" * 100], ids="abcd"
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "run"
    once(99, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint .*run is damaged or is not one of kdutils"):
        once(99, path, resume=True)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "run")
    with pytest.raises(ValueError, match="is not one of kdutils"):
        once(99, tmp_path / "run", resume=True)


def test_nothing_is_overwritten_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("dear")
    with pytest.raises(ValueError, match=r"run exists: pass resume=True to go on from it, or delete it"):
        once(99, path)
    assert path.read_text() == "dear"
    with pytest.raises(ValueError, match="resume=True needs checkpoint"):
        once(99, None, resume=True)
    with pytest.raises(ValueError, match="checkpoint must lie in a folder that exists, got "):
        once(99, tmp_path / "nowhere" / "run")
    with pytest.raises(ValueError, match="checkpoint_every must be an integer of at least 1, got 0"):
        once(99, tmp_path / "other", checkpoint_every=0)


def test_a_model_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    class Breaks(nn.Module):
        """Its gradient is NaN in the eighth step, while its loss is finite."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.steps = nn.Linear(64, 10), 0

        def forward(self, x: Tensor) -> Tensor:
            logits = self.layer(x.flatten(1))
            self.steps += self.training
            if self.steps == 8 and logits.requires_grad:
                logits.register_hook(lambda grad: grad * float("nan"))
            return logits

    path = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"before step 4 of epoch 2: lower lr. .*run holds the last good"):
        kd.fit(Breaks(), random_set(), epochs=3, batch_size=8, checkpoint=path, checkpoint_every=2, progress=False)
    tensors, facts = _checkpoint.read(path)
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())
    assert (facts["epoch"], facts["step"]) == (1, 1)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=None))
    monkeypatch.setitem(sys.modules, "IPython", stub)


def interrupted(after: int) -> nn.Module:
    model, left = pixels(1), iter(range(after))

    def interrupt(*_: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(interrupt)
    return model


def test_an_interrupted_run_in_a_notebook_gives_back_its_history(notebook: None) -> None:
    model = interrupted(12)
    with pytest.warns(UserWarning, match="interrupted in epoch 3 of 4") as caught:
        history = kd.fit(model, random_set(), epochs=4, batch_size=8, progress=False)
    assert caught[0].filename == __file__
    assert len(history["loss"]) == 2 and not model.training


def test_an_interrupted_script_stops() -> None:
    with pytest.raises(KeyboardInterrupt):
        kd.fit(interrupted(12), random_set(), epochs=4, batch_size=8, progress=False)


def test_out_of_memory_says_what_to_change() -> None:
    model = pixels(1)

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    model.register_forward_pre_hook(full)
    with pytest.raises(
        torch.cuda.OutOfMemoryError, match=r"in epoch 1, step 1: lower batch_size \(8\), or let .* 2 GiB"
    ):
        kd.fit(model, random_set(), epochs=1, batch_size=8, progress=False)


# ---------------------------------------------------------------- killed


def train_to(path: Path) -> None:
    """120 steps of a student with dropout, batch norm and a projector; a checkpoint after every seventh."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    term = kd.Term("hint", kd.losses.hint_loss, 0.1, "conv", "conv", projector="linear")
    kd.distill(
        pixels(1), pixels(2), random_set(600), terms=[term], epochs=4, batch_size=20, lr=0.05, seed=3,
        checkpoint=path, checkpoint_every=7, resume=True, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def end(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The last checkpoint of an undisturbed run, and the seconds that it took."""
    path = tmp_path_factory.mktemp("end") / "run"
    return path, kills.undisturbed(train_to, path)


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed(tmp_path: Path, end: tuple[Path, float], count: int) -> None:
    """At no moment a checkpoint that can't be read, and always the same end to the bit."""
    path, seen, ends = tmp_path / "run", set(), []

    def look() -> None:
        if path.exists():
            _, facts = _checkpoint.read(path)
            seen.add((facts["epoch"], facts["step"]))

    def compare() -> None:
        ends.append(path)
        assert_same_end(path, end[0])
        path.unlink()

    kills.killed(train_to, (path,), count, end[1], end=compare, look=look, dead=look)
    assert len(ends) >= count and len(seen) > 3  # it was looked at while it trained


@pytest.mark.parametrize("state", ["half", "whole"])
def test_killed_while_a_checkpoint_is_written(tmp_path: Path, end: tuple[Path, float], state: str) -> None:
    path = tmp_path / "run"
    for count, done in ((1, None), (3, 14), (1, 14), (9, 70)):
        process = kills.start(kills.dies_in_the_midst, train_to, path, count, state)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert path.exists() == (done is not None)
        if done is not None:
            facts = _checkpoint.read(path)[1]
            assert facts["epoch"] * 30 + facts["step"] == done
    kills.undisturbed(train_to, path)
    assert_same_end(path, end[0])
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def assert_same_end(path: Path, wanted: Path) -> None:
    (found, its_facts), (expected, facts) = _checkpoint.read(path), _checkpoint.read(wanted)
    assert same_bits(found, expected)
    assert same_history(its_facts["history"], facts["history"])
