"""The store of teacher logits: the same answers as live, whole or not at all, and never those of somebody else."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdutils as kd
from kdutils import _loop, data, store
from kdutils._batches import ImageBatches
from tests import kills
from tests.common import fashion, random_set

COUNT = 60


@pytest.fixture(scope="module")
def train() -> kd.data.ImageSet:
    return fashion()[0].subset(COUNT, seed=0)


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    return kd.zoo.load("fashion_mnist/tiny_cnn")


def fill(folder: Path, teacher: torch.nn.Module, train: kd.data.ImageSet, **options: object) -> store.LogitStore:
    chosen = {"views": 3, "seed": 1, "precision": "single", "progress": False} | options
    return store.fill(folder, teacher, train, **chosen)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(1, keepdim=True)


def test_moving_by_drawn_shifts_is_flip_and_shift() -> None:
    images = torch.randint(256, (9, 3, 16, 24), dtype=torch.uint8)
    flip = torch.arange(9) % 2 == 0
    drawn = data.draw_shifts(9, (16, 24), torch.Generator().manual_seed(5))
    assert drawn[:, 0].abs().max() <= 2 and drawn[:, 1].abs().max() <= 3 and drawn.abs().max() > 0
    expected = data.flip_and_shift(images, flip, torch.Generator().manual_seed(5))
    assert torch.equal(data.move(images, flip, drawn), expected)
    one = torch.arange(12.0).view(1, 1, 3, 4)  # by hand: down by … a positive shift looks further down and right
    assert torch.equal(data.move(one, torch.tensor([False]), torch.zeros(1, 2, dtype=torch.long)), one)


def test_the_store_answers_as_the_live_teacher_does(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    kept = fill(tmp_path / "store", teacher, train)
    index = torch.tensor([5, 0, 59, 5])
    seen = []
    for view in range(3):
        flip, shift = kept.draws(view, (28, 28))
        images = train.normalise(data.move(train.images, flip, shift))
        live = kd.predict(teacher, images)
        torch.testing.assert_close(kept.logits(view, index), centred(live)[index], rtol=0, atol=1e-5)
        seen.append(images)
    assert not torch.equal(seen[0], seen[1])
    again = store.load(tmp_path / "store", teacher, train)
    assert again == kept


def test_half_precision_is_ten_times_finer_than_a_tenth_of_a_percent(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    every = torch.arange(COUNT)
    half, single = (fill(tmp_path / p, teacher, train, precision=p).logits(0, every) for p in ("half", "single"))
    assert (half.softmax(1) - single.softmax(1)).abs().max() < 2e-3
    assert not torch.equal(half, single)
    sizes = {p: (tmp_path / p / "view-000.logits.npy").stat().st_size for p in ("half", "single")}
    assert sizes["half"] - 128 == COUNT * 10 * 2 and sizes["single"] - 128 == COUNT * 10 * 4


def test_the_largest_logits_and_the_rest(tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet) -> None:
    every = torch.arange(COUNT)
    whole = fill(tmp_path / "all", teacher, train).logits(2, every).softmax(1)
    few = fill(tmp_path / "few", teacher, train, top=3).logits(2, every).softmax(1)
    values, names = whole.topk(3, dim=1)
    torch.testing.assert_close(few.gather(1, names), values, rtol=1e-4, atol=1e-6)
    rest = few.scatter(1, names, 0.0)
    torch.testing.assert_close(rest.sum(1), 1 - values.sum(1), rtol=1e-3, atol=1e-6)
    assert all(len(row[row > 0].unique()) == 1 for row in rest)


def test_two_processes_fill_what_one_does(tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet) -> None:
    fill(tmp_path / "one", teacher, train)
    for which in (1, 0):
        fill(tmp_path / "two", teacher, train, part=(which, 2))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_an_interrupted_fill_goes_on_and_a_half_written_view_is_none(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "whole", teacher, train)
    asked = []
    real = store._answers

    def dies(*arguments: object) -> torch.Tensor:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_answers", dies)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "cut", teacher, train)
    (tmp_path / "cut" / ".view-001.logits.npy.99").write_bytes(b"half of a view")
    with pytest.raises(ValueError, match="damaged or incomplete: view-001"):
        store.load(tmp_path / "cut", teacher, train)
    fill(tmp_path / "cut", teacher, train)
    assert len(asked) == 4  # one before, one that died, two after
    (tmp_path / "cut" / ".view-001.logits.npy.99").unlink()
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_the_global_random_state_and_the_teacher_are_left_alone(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    before = torch.get_rng_state()
    teacher.train()
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    fill(tmp_path, teacher, train)
    assert teacher.training
    teacher.eval()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("teacher", "is of another teacher"),
        ("images", "is of another images"),
        ("order", "is of another images"),
        ("statistics", "is of another images"),
        ("augmentation", "is of another augmentation"),
        ("missing", "damaged or incomplete: view-001"),
        ("truncated", "damaged or incomplete: view-002"),
        ("empty", "damaged or incomplete: view-002"),
        ("something else", "damaged or incomplete: view-002"),
        ("shorter", r"is damaged: view-000\.logits\.npy has shape \(59, 4\), not \(60, 4\); fill it again"),
        ("narrower", r"is damaged: view-000\.logits\.npy has shape \(60, 3\), not \(60, 4\); fill it again"),
        ("names truncated", r"damaged or incomplete: view-001\.classes"),
        ("facts truncated", r"is damaged: store\.json \(JSONDecodeError\); delete the folder and fill it again"),
        ("none", "does not exist: make it with"),
    ],
)
def test_a_wrong_store_is_refused_in_one_sentence(
    change: str, sentence: str, tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    folder = tmp_path / "store"
    fill(folder, teacher, train, top=3)
    view = [folder / f"view-{v:03d}.logits.npy" for v in range(3)]
    if change == "teacher":
        teacher = kd.zoo.load("fashion_mnist/tiny_cnn_distilled")
    elif change == "images":
        train = fashion()[0].subset(COUNT, seed=1)
    elif change == "order":
        train = train[torch.arange(COUNT).flip(0)]
    elif change == "statistics":
        train = replace(train, mean=(0.5,))
    elif change == "augmentation":
        facts = json.loads((folder / store.FACTS).read_text())
        (folder / store.FACTS).write_text(json.dumps(facts | {"augmentation": "crop"}))
    elif change == "missing":
        view[1].unlink()
    elif change == "truncated":
        view[2].write_bytes(view[2].read_bytes()[:-7])
    elif change == "empty":
        view[2].write_bytes(b"")
    elif change == "something else":
        view[2].write_bytes(b"x" * 500)
    elif change == "shorter":
        np.save(view[0], np.load(view[0])[:-1])
    elif change == "narrower":
        np.save(view[0], np.load(view[0])[:, :-1])
    elif change == "names truncated":
        names = folder / "view-001.classes.npy"
        names.write_bytes(names.read_bytes()[:-7])
    elif change == "facts truncated":
        (folder / store.FACTS).write_bytes((folder / store.FACTS).read_bytes()[:-7])
    else:
        folder = tmp_path / "nowhere"
    with pytest.raises(ValueError, match=sentence) as caught:
        store.load(folder, teacher, train)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "shorter", "names"])
def test_filling_again_makes_a_damaged_view_anew_and_no_other(
    damage: str, tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, teacher, train, top=3)
    whole, view = files(tmp_path), tmp_path / "view-001.logits.npy"
    if damage == "missing":
        view.unlink()
    elif damage == "truncated":
        view.write_bytes(view.read_bytes()[:-1])
    elif damage == "empty":
        view.write_bytes(b"")
    elif damage == "shorter":
        np.save(view, np.load(view)[:-1])
    else:
        (tmp_path / "view-001.classes.npy").unlink()
    asked, real = [], store._answers

    def counted(*arguments: Any) -> torch.Tensor:
        asked.append(1)
        return real(*arguments)

    monkeypatch.setattr(store, "_answers", counted)
    fill(tmp_path, teacher, train, top=3)
    assert len(asked) == 1 and files(tmp_path) == whole
    assert store.load(tmp_path, teacher, train).views == 3


def test_views_of_nobody_knows_whom_are_not_taken_over(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    fill(tmp_path, teacher, train)
    (tmp_path / store.FACTS).unlink()
    with pytest.raises(
        ValueError, match=r"has lost its store\.json, so whose views it holds is not known: delete it\."
    ):
        fill(tmp_path, kd.zoo.load("fashion_mnist/tiny_cnn_distilled"), train)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"views": 0}, "views must be an integer of at least 1, got 0"),
        ({"views": 4}, "is of another views: 3, now it is 4"),
        ({"views": 2}, "is of another views: 3, now it is 2"),
        ({"top": 3}, "is of another top: None, now it is 3"),
        ({"seed": 2}, "is of another seed"),
        ({"precision": "half"}, "is of another precision"),
        ({"precision": "haf"}, "precision 'haf' is unknown: the nearest is 'half'"),
        ({"top": 10}, "top must lie in 1 to 9 for 10 classes, got 10"),
        ({"part": (2, 2)}, r"part must be \(which, of how many\)"),
    ],
)
def test_filling_refuses_what_does_not_fit(
    options: dict[str, object], sentence: str, tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    fill(tmp_path, teacher, train)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        fill(tmp_path, teacher, train, **options)
    assert files(tmp_path) == before


# ---------------------------------------------------------------- killed


def fill_to(folder: Path) -> None:
    torch.set_num_threads(1)
    teacher, train = kd.zoo.load("fashion_mnist/tiny_cnn"), random_set(1500, size=28)
    store.fill(folder, teacher, train, views=8, seed=1, top=3, progress=False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An undisturbed store, and the seconds that filling it took."""
    folder = tmp_path_factory.mktemp("filled") / "store"
    return folder, kills.undisturbed(fill_to, folder)


def complete(folder: Path, wanted: Path) -> bool:
    """Whether a store is taken for complete; if so it must be equal, if not that must be said."""
    try:
        store.load(folder, kd.zoo.load("fashion_mnist/tiny_cnn"), random_set(1500, size=28))
    except ValueError as error:
        assert re.search("is damaged or incomplete: view-00[0-7]|does not exist", str(error)), error
        return False
    assert {name: found for name, found in files(folder).items() if not name.startswith(".")} == files(wanted)
    return True


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_filling_killed_at_random_moments_and_resumed(tmp_path: Path, filled: tuple[Path, float], count: int) -> None:
    folder, ends, cut = tmp_path / "store", [], []

    def end() -> None:
        assert complete(folder, filled[0])
        ends.append(len(files(folder)))
        shutil.rmtree(folder)

    def dead() -> None:
        cut.append(complete(folder, filled[0]))

    kills.killed(fill_to, (folder,), count, filled[1], end=end, dead=dead)
    assert len(ends) >= count == len(cut) and not all(cut)


@pytest.mark.parametrize("state", ["half", "whole"])
def test_killed_while_a_file_of_a_store_is_written(tmp_path: Path, filled: tuple[Path, float], state: str) -> None:
    folder = tmp_path / "store"
    for count in (1, 2, 3, 2):  # its facts; the classes and the logits of the first view; the logits of the second
        process = kills.start(kills.dies_in_the_midst, fill_to, folder, count, state)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not complete(folder, filled[0])
    kills.undisturbed(fill_to, folder)
    assert complete(folder, filled[0])


# ---------------------------------------------------------------- in distill


def test_each_epoch_shows_the_next_view_and_what_the_teacher_said_of_it(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    kept = fill(tmp_path, teacher, train, views=2)
    batches = ImageBatches(train, 25, True, None, 0, torch.device("cpu"), [{}], kept)
    epochs = []
    for _ in range(3):
        seen = list(batches)
        for batch in seen:
            live = kd.predict(teacher, batch.inputs)
            torch.testing.assert_close(batch.teachers[0]["logits"], centred(live), rtol=0, atol=1e-5)
        order = torch.cat([batch.inputs.flatten(1) for batch in seen])
        epochs.append(order[order.sum(1).argsort()])
    assert torch.equal(epochs[0], epochs[2])  # two views, so the third epoch shows the first again, in another order
    assert not torch.equal(epochs[0], epochs[1])


def test_students_of_a_store_are_those_of_its_live_teacher(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    kept = fill(tmp_path, teacher, train, views=1)
    flip, shift = kept.draws(0, (28, 28))
    shown = replace(train, images=data.move(train.images, flip, shift))
    found = []
    for source, images, augment in ((kept, train, True), (teacher, shown, False)):
        with kd.seeded(0):
            student = kd.models.tiny_cnn()
        kd.distill(student, source, images, epochs=1, augment=augment, batch_size=COUNT, progress=False)
        found.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_goes_on_with_the_view_that_is_due(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = fill(tmp_path / "store", teacher, train)
    ends = []
    for stop in (None, 7):
        with kd.seeded(0):
            student = kd.models.tiny_cnn()
        run = partial(
            kd.distill, student, kept, train, epochs=4, batch_size=25, checkpoint=tmp_path / f"{stop}.safetensors",
            checkpoint_every=2, resume=True, progress=False,
        )  # fmt: skip
        if stop is not None:
            steps: list[int] = []
            real = _loop._Loop.one_step

            def dies(*arguments: Any, real: Any = real, steps: list[int] = steps) -> Any:
                steps.append(1)
                if len(steps) == 7:
                    raise KeyboardInterrupt
                return real(*arguments)

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(_loop._Loop, "one_step", dies)
                run()
            assert len(steps) == 7
        run()
        ends.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.equal(*ends)


def test_distill_refuses_a_store_of_other_classes(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    kept = fill(tmp_path, teacher, train)
    with pytest.raises(ValueError, match=r"student and teacher must give logits of the same shape .* \(60, 12\) and"):
        kd.distill(kd.models.tiny_cnn(classes=12), kept, train, epochs=1, progress=False)


def test_a_view_that_vanishes_stops_the_training_in_one_sentence(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    kept = fill(tmp_path, teacher, train)
    (tmp_path / "view-001.logits.npy").unlink()
    with pytest.raises(ValueError, match=r"is damaged or incomplete: view-001\.logits\.npy .* fill it again\.$"):
        kd.distill(kd.models.tiny_cnn(), kept, train, epochs=2, progress=False)


def test_distill_refuses_a_store_that_does_not_fit(
    tmp_path: Path, teacher: torch.nn.Module, train: kd.data.ImageSet
) -> None:
    kept, other = fill(tmp_path, teacher, train), train[torch.arange(COUNT).flip(0)]
    student = kd.models.tiny_cnn()
    for source, images, options, sentence in (
        (kept, other, {}, "is of other images than train, or of another order"),
        (kept, replace(train, std=(0.5,)), {}, "is of other images than train, or of another order"),
        (kept, train, {"augment": False}, "teacher is a store, which needs .* augment=True"),
        (kept, train, {"mix": "mixup"}, "teacher is a store, which needs .* no mix"),
        ([kept, kept], train, {}, "teacher must be one store alone"),
    ):
        with pytest.raises(ValueError, match=sentence):
            kd.distill(student, source, images, epochs=1, progress=False, **options)  # type: ignore[arg-type]
