"""What the unit tests share: small sets, small networks, and pictures of a state to compare with later."""

from __future__ import annotations

import contextlib
import functools
import http.server
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import kdutils as kd
from kdutils.data import ImageSet

settings.register_profile("book", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("book")


@functools.cache
def fashion() -> tuple[ImageSet, ImageSet]:
    """The complete Fashion-MNIST, read once."""
    return kd.data.load("fashion_mnist")


def random_set(n: int = 40, classes: int = 10, size: int = 8, channels: int = 1, seed: int = 0) -> ImageSet:
    """Noise with labels; every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % classes
    names = tuple(f"class {k}" for k in range(classes))
    return ImageSet(images, labels, names, (0.5,) * channels, (0.25,) * channels)


def shuffling_loader(data: ImageSet, batch_size: int = 8, workers: int = 0) -> DataLoader[tuple[Tensor, ...]]:
    """A DataLoader as a practitioner writes it: no generator, so that it draws from the global one."""
    return DataLoader(TensorDataset(*data.tensors()), batch_size=batch_size, shuffle=True, num_workers=workers)


class Pixels(nn.Module):
    """A teacher or student that shows every mistake with its mode: batch norm and dropout, on 8 × 8 images."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6 * 36, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


def pixels(seed: int = 0, classes: int = 10) -> Pixels:
    with kd.seeded(seed):
        return Pixels(classes)


def linear(seed: int = 0, classes: int = 10, size: int = 8) -> nn.Sequential:
    with kd.seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(size * size, classes))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def random_state() -> tuple[bytes, str, str]:
    """The global random state of torch, NumPy and Python."""
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())


def files(*folders: Path) -> dict[str, bytes]:
    """Every file and folder below the given ones, with its content."""
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in found}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a folder on this machine; gives the address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
