"""The one file from which an interrupted training goes on.

Tensors are stored as safetensors and all else as JSON in the file's metadata: reading it runs no code. The file
is replaced as a whole, so that at every moment the old one or the new one is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def write(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
    """Replace `path` by these tensors and facts."""
    new = path.with_name(f".{path.name}.new")
    packed = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(packed, new, {"kdutils": json.dumps(facts)})
    with new.open("rb") as file:
        os.fsync(file.fileno())  # on the disk before it takes the old one's place
    os.replace(new, path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` stored.

    Raises:
        ValueError: for a file that is damaged, or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["kdutils"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged or is not one of kdutils ({error}): delete it to start anew."
        ) from None


def check_same(path: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on from another run's checkpoint.

    Raises:
        ValueError: for the first setting that differs, by name.
    """
    now = json.loads(json.dumps(now))
    for name in {**stored, **now}:
        if stored.get(name) != now.get(name):
            raise ValueError(
                f"checkpoint {path} belongs to another run: {name} was {stored.get(name)!r:.60}, "
                f"now it is {now.get(name)!r:.60}."
            )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A short hash of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, value in tensors.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, by "position.name"."""
    return {
        f"{i}.{name}": value
        for i, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimiser its memory back.

    Each buffer gets its parameter's memory layout: PyTorch's fused steps are silently wrong where the two
    differ, and `load_state_dict` does not mend it.
    """
    parameters = list(_parameters(optimizer))
    for key, value in state.items():
        i, _, name = key.partition(".")
        parameter = parameters[int(i)]
        if value.shape == parameter.shape and value.dim():
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        optimizer.state[parameter][name] = value


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
