"""`precision="bfloat16"`: the networks compute in 16 bits, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdutils as kd
from tests.common import fashion, pixels, random_set, same_bits, weights

pytestmark = pytest.mark.filterwarnings("ignore:the teacher is right on")
OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.05, "progress": False}


def seen_by(model: nn.Module) -> set[torch.dtype]:
    """Fills itself with the types that the first convolution gives while the model is used."""
    found: set[torch.dtype] = set()
    layer = next(each for each in model.modules() if isinstance(each, nn.Conv2d))
    layer.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    return found


def test_networks_compute_in_16_bits_and_terms_in_32() -> None:
    student, teacher, got = pixels(1), pixels(2), []

    def term(ours: Tensor, theirs: Tensor) -> Tensor:
        got.append((ours.dtype, theirs.dtype))
        return (ours - theirs).square().mean()

    types = seen_by(student), seen_by(teacher)
    hint = kd.Term("hint", term, 0.1, "conv", "conv")
    history = kd.distill(student, teacher, random_set(), terms=[hint], precision="bfloat16", **OPTIONS)
    assert types == ({torch.bfloat16}, {torch.bfloat16})
    assert set(got) == {(torch.float32, torch.float32)}
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(values)).all() for values in history.values())


def test_single_precision_is_what_comes_without_a_word() -> None:
    student = pixels(1)
    types = seen_by(student)
    kd.fit(student, random_set(), **OPTIONS)
    assert types == {torch.float32}
    other = pixels(1)
    kd.fit(other, random_set(), precision="single", **OPTIONS)
    assert same_bits(weights(student), weights(other))


def test_autocast_around_the_call_is_left_alone() -> None:
    student = pixels(1)
    types = seen_by(student)
    with torch.autocast("cpu", torch.bfloat16):
        kd.fit(student, random_set(), **OPTIONS)
    assert types == {torch.bfloat16}


def test_it_learns_nearly_what_single_precision_learns() -> None:
    train, test = (part[:600] for part in fashion())
    found = {}
    for precision in ("single", "bfloat16"):
        with kd.seeded(0):
            student = kd.models.tiny_cnn()
        history = kd.fit(student, train, epochs=4, batch_size=32, precision=precision, progress=False)
        found[precision] = history["loss"], kd.evaluate(student, test)["accuracy"]
    assert found["single"][0] != found["bfloat16"][0]
    assert found["bfloat16"][0] == pytest.approx(found["single"][0], rel=0.1)
    assert found["bfloat16"][1] == pytest.approx(found["single"][1], abs=0.08)


def test_a_checkpoint_of_another_precision_is_refused(tmp_path: Path) -> None:
    kd.fit(pixels(1), random_set(), checkpoint=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match="precision"):
        kd.fit(pixels(1), random_set(), checkpoint=tmp_path / "run", resume=True, precision="bfloat16", **OPTIONS)


@pytest.mark.parametrize("bad", ["half", 16, None])
def test_bad_precision_is_told(bad: Any) -> None:
    with pytest.raises(ValueError, match=r'^precision must be "single" or "bfloat16", got '):
        kd.fit(pixels(1), random_set(), precision=bad, **OPTIONS)
