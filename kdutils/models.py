"""The networks of the book. They take normalised images (N, C, H, W) and give logits (N, K).

Every activation is a module of its own and none works in place, because explanation methods hook
modules. Weights are born in the channels-last layout, in which convolutions on a CPU run faster;
values and shapes are the same in both layouts.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from kdutils._base import check_positive_int

Model = TypeVar("Model", bound=nn.Module)


class Block(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al. 2016, arXiv:1512.03385, Fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network for small images; build it with :func:`resnet`."""

    def __init__(self, blocks: int, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = self._stage(width, width, blocks, 1)
        self.stage2 = self._stage(width, 2 * width, blocks, 2)
        self.stage3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *[Block(outputs, outputs, 1) for _ in range(blocks - 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(self.pool(x).flatten(1))


def resnet(depth: int, width: int = 16, in_channels: int = 1, classes: int = 10) -> ResNet:
    """The CIFAR form of ResNet: three stages of `width`, 2·`width` and 4·`width` channels.

    He et al. 2016 (arXiv:1512.03385, section 4.2), with a 1×1 convolution where a shortcut changes
    shape (their option B).

    Args:
        depth: 6n + 2 layers, that is 8, 14, 20, 32, 44, 56, …
        width: channels of the first stage.
        in_channels: 1 for grey images, 3 for colour.
        classes: number of logits.

    Raises:
        ValueError: if `depth` is not 6n + 2 with n ≥ 1, or another argument is below 1.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 44, 56, ...), got {depth!r}.")
    _check(width=width, in_channels=in_channels, classes=classes)
    return _finish(ResNet((depth - 2) // 6, width, in_channels, classes))


def tiny_cnn(width: int = 8, in_channels: int = 1, classes: int = 10) -> nn.Sequential:
    """Three 3×3 convolutions (`width`, 2·`width`, 4·`width` channels), average pooling, one linear layer.

    The student of the book: 6,274 parameters at width 8. Strided convolutions take the place of max
    pooling, so that every explanation method is exact on it.

    Raises:
        ValueError: if an argument is below 1.
    """
    _check(width=width, in_channels=in_channels, classes=classes)

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    return _finish(
        nn.Sequential(
            *layer(in_channels, width, 2),
            *layer(width, 2 * width, 2),
            *layer(2 * width, 4 * width, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, classes),
        )
    )


class AttentionBlock(nn.Module):
    """Self-attention and a two-layer network, each after a layer norm and with a shortcut.

    The attention weights (N, heads, tokens, tokens) are what the layer `softmax` gives; so they are read, with
    their gradient, as any layer is: `kd.layers.read(model, ["blocks.0.softmax"])`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.softmax = nn.Softmax(dim=-1)
        self.project = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
        x = x + self.project((weights @ v).transpose(1, 2).reshape(n, tokens, dim))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A small vision transformer; build it with :func:`vit`."""

    def __init__(
        self, image_size: int, patch: int, dim: int, depth: int, heads: int, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, dim, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, (image_size // patch) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*[AttentionBlock(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], dim=1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def vit(
    image_size: int = 28,
    patch: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    in_channels: int = 1,
    classes: int = 10,
) -> VisionTransformer:
    """A small vision transformer whose attention weights can be read (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Args:
        image_size: height and width of the images, a multiple of `patch`.
        patch: height and width of one patch; token 0 is the class token, the others are patches row by row.
        dim: size of a token, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads per block.
        in_channels: 1 for grey images, 3 for colour.
        classes: number of logits.

    Raises:
        ValueError: if an argument is below 1 or a size is not the multiple that it has to be.
    """
    _check(image_size=image_size, patch=patch, dim=dim, depth=depth, heads=heads, in_channels=in_channels)
    _check(classes=classes)
    if image_size % patch:
        raise ValueError(f"image_size must be a multiple of patch ({patch}), got {image_size}.")
    if dim % heads:
        raise ValueError(f"dim must be a multiple of heads ({heads}), got {dim}.")
    return VisionTransformer(image_size, patch, dim, depth, heads, in_channels, classes)


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        check_positive_int(name, value)


def _finish(model: Model) -> Model:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
