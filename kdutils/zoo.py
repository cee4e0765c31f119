"""Trained weights that ship with the package, as safetensors with a checked sha256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from kdutils import models
from kdutils._base import nearest, seeded, write_whole

FOLDER = Path(__file__).parent / "weights"


def names() -> list[str]:
    """The names that :func:`load` knows."""
    return sorted(_cards())


def card(name: str) -> dict[str, Any]:
    """How a network was made: builder and its arguments, command, seed, data, accuracy, sha256.

    Raises:
        ValueError: for an unknown name (the sentence gives the nearest one).
    """
    cards = _cards()
    if name not in cards:
        raise ValueError(nearest("network", name, cards))
    return cards[name]


def load(name: str) -> nn.Module:
    """A trained network in eval mode, on the CPU.

    Raises:
        ValueError: for an unknown name, or a file whose sha256 is not the one on the card.
    """
    facts = card(name)
    path = FOLDER / facts["file"]
    packed = path.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != facts["sha256"]:
        raise ValueError(f"{path} has sha256 {found[:12]}…, but {facts['sha256'][:12]}… is wanted: install again.")
    with seeded(0):  # building draws weights, and loading is to leave the random state alone
        model: nn.Module = getattr(models, facts["builder"])(**facts["arguments"])
    model.load_state_dict(load_tensors(packed))
    return model.eval()


def save(model: nn.Module, name: str, builder: str, arguments: dict[str, Any], **facts: Any) -> None:
    """Store a trained network with its card; for those who add one to the package.

    Args:
        model: as built by `models.<builder>(**arguments)`.
        name: such as "fashion_mnist/resnet14".
        builder: name of a function in :mod:`kdutils.models`.
        arguments: its arguments.
        facts: what else belongs on the card (command, seed, data, accuracy).
    """
    packed = save_tensors({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()})
    file = name.replace("/", "-") + ".safetensors"
    sha256 = hashlib.sha256(packed).hexdigest()
    entry = {"file": file, "sha256": sha256, "bytes": len(packed), "builder": builder, "arguments": arguments, **facts}
    FOLDER.mkdir(exist_ok=True)
    write_whole(FOLDER / file, packed)
    write_whole(FOLDER / "cards.json", (json.dumps(_cards() | {name: entry}, indent=1, sort_keys=True) + "\n").encode())


def _cards() -> dict[str, dict[str, Any]]:
    path = FOLDER / "cards.json"
    return json.loads(path.read_text()) if path.exists() else {}
