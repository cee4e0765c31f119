"""Reading layers by name: what is read is what the layer gave, and the network is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import kdutils as kd
from kdutils import layers


def net(inplace: bool = False) -> nn.Sequential:
    with kd.seeded(0):
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 3))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_what_is_read_is_the_layers_output_with_its_gradient() -> None:
    model, x = net(), torch.randn(7, 4)
    with layers.read(model, ["0", "1"]) as seen:
        model(x)
        assert torch.equal(seen["0"], model[0](x))
        assert torch.equal(seen["1"], model[0](x).relu())
        seen["1"].sum().backward()
    assert model[0].weight.grad is not None
    assert model[2].weight.grad is None  # it comes after what was read


def test_each_forward_pass_replaces_the_one_before() -> None:
    model = net()
    with layers.read(model, ["0"]) as seen:
        assert not seen
        model(torch.zeros(2, 4))
        model(torch.ones(5, 4))
        assert len(seen["0"]) == 5


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_stays_behind(fails: bool) -> None:
    model = net()
    try:
        with layers.read(model, ["0", "2"]):
            assert hooks(model) == 4
            model(torch.zeros(2, 9 if fails else 4))
    except RuntimeError:
        assert fails
    assert hooks(model) == 0


def test_a_nested_path_of_a_shipped_network() -> None:
    teacher = kd.zoo.load("fashion_mnist/resnet14")
    with layers.read(teacher, ["stage2.0.relu2", "stage3", "pool"]) as seen, torch.no_grad():
        logits = teacher(torch.zeros(2, 1, 28, 28))
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "stage2.0.relu2": (2, 32, 14, 14),
        "stage3": (2, 64, 7, 7),
        "pool": (2, 64, 1, 1),
    }
    torch.testing.assert_close(teacher.head(seen["pool"].flatten(1)), logits)


def test_an_output_that_is_changed_in_place_later_is_refused_and_the_changer_is_accepted() -> None:
    model = net(inplace=True)
    with layers.read(model, ["0"]), pytest.raises(ValueError, match=r"'0' is changed in place.*activation"):
        model(torch.randn(3, 4))
    with layers.read(model, ["1"]) as seen:
        model(torch.randn(3, 4))
    assert (seen["1"] >= 0).all()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same, self.unused, self.pair = nn.Linear(4, 4), nn.Linear(4, 4), nn.LSTM(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(self.same(self.same(x)))[0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("same", "called twice"),
        ("unused", "not called"),
        ("pair", "one tensor, got tuple"),
        ("sam", "nearest is 'same'"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused_in_one_sentence(path: str, words: str) -> None:
    model = Twice()
    with pytest.raises(ValueError, match=words), layers.read(model, [path]):
        model(torch.zeros(2, 4))
    assert hooks(model) == 0
