"""The networks: their sizes by hand, their parts against PyTorch's own, and what explanation methods need."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdutils as kd
from kdutils import models
from tests.common import same_bits, weights


def resnet_parameters(depth: int, width: int, in_channels: int, classes: int) -> int:
    """Counted by hand: 3 × 3 kernels, two numbers per batch norm channel, 1 × 1 shortcuts, the head."""
    blocks = (depth - 2) // 6
    total = 9 * in_channels * width + 2 * width
    inputs = width
    for outputs in (width, 2 * width, 4 * width):
        for _ in range(blocks):
            total += 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
            if inputs != outputs:
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    return total + 4 * width * classes + classes


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56])
def test_resnet_has_its_depth_and_its_parameters(depth: int) -> None:
    model = models.resnet(depth, width=4, in_channels=3, classes=7)
    assert size(model) == resnet_parameters(depth, 4, 3, 7)
    layers = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in name]
    assert len(layers) == depth
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_known_sizes() -> None:
    assert (
        size(models.resnet(20, in_channels=3)) == 272_474
    )  # ResNet-20 with option B shortcuts, as published code has it
    assert size(models.tiny_cnn()) == 6_274
    assert size(models.tiny_cnn(4, 3, 5)) == 9 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16) + 16 * 5 + 5


def test_a_block_is_what_the_paper_draws() -> None:
    block = models.Block(3, 6, stride=2).double().eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias)

    def norm(x: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
        mean, var, gain, bias = (v.view(1, -1, 1, 1) for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return (x - mean) / (var + bn.eps).sqrt() * gain + bias

    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    inner = norm(F.conv2d(x, block.conv1.weight, stride=2, padding=1), block.bn1).clamp(min=0)
    inner = norm(F.conv2d(inner, block.conv2.weight, padding=1), block.bn2)
    conv, bn = block.shortcut
    torch.testing.assert_close(block(x), (inner + norm(F.conv2d(x, conv.weight, stride=2), bn)).clamp(min=0))


BUILDERS = {
    "resnet": lambda: models.resnet(8, width=4),
    "tiny_cnn": lambda: models.tiny_cnn(4),
    "vit": lambda: models.vit(dim=16, depth=2, heads=2),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = BUILDERS[name]()
    F.cross_entropy(model(torch.randn(8, 1, 28, 28)), torch.arange(8)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("name", BUILDERS)
def test_no_activation_works_in_place_and_none_is_used_twice(name: str) -> None:
    model = BUILDERS[name]()
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    calls: dict[nn.Module, int] = {}
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, *_: calls.update({module: calls.get(module, 0) + 1}))
    model(torch.randn(2, 1, 28, 28))
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("name", BUILDERS)
def test_in_eval_mode_an_image_does_not_depend_on_its_batch(name: str) -> None:
    model = BUILDERS[name]().eval()
    images = torch.randn(6, 1, 28, 28)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_same_seed_builds_the_same_network(name: str) -> None:
    built = []
    for seed in (0, 0, 1):
        with kd.seeded(seed):
            built.append(weights(BUILDERS[name]()))
    assert same_bits(built[0], built[1])
    assert not same_bits(built[0], built[2])


def test_kernels_are_channels_last() -> None:
    kernel = next(models.resnet(8).stage1[0].conv1.parameters())
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_vit_attention_is_pytorchs_multi_head_attention() -> None:
    model = models.vit(image_size=8, patch=4, dim=16, depth=2, heads=4, in_channels=3).double().eval()
    model(torch.randn(3, 3, 8, 8, dtype=torch.float64))
    block = model.blocks[1]
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.project.weight,
            "out_proj.bias": block.project.bias,
        }
    )
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    normed = block.norm1(x)
    mixed, attention = theirs(normed, normed, normed, average_attn_weights=False)
    with kd.layers.read(block, ["softmax"]) as seen:
        found = block(x)
    torch.testing.assert_close(seen["softmax"], attention)
    torch.testing.assert_close(found, x + mixed + block.mlp(block.norm2(x + mixed)))


def test_vit_shows_its_attention() -> None:
    model = models.vit(dim=16, depth=3, heads=2).eval()
    layers = [f"blocks.{i}.softmax" for i in range(3)]
    with kd.layers.read(model, layers) as seen:
        model(torch.randn(5, 1, 28, 28))
    for layer in layers:
        assert seen[layer].shape == (5, 2, 50, 50)
        torch.testing.assert_close(seen[layer].sum(-1), torch.ones(5, 2, 50))


def test_vit_sees_patches_row_by_row() -> None:
    model = models.vit(image_size=8, patch=4, dim=8, depth=1, heads=1)
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 0:4, 4:8] = 1  # the patch in the first row, second column
    change = (model.patches(image) - model.patches(torch.zeros_like(image))).flatten(2).abs().sum(1)[0]
    assert change.argmax() == 1
    assert (change > 0).sum() == 1
