"""What every module needs: the device, the seed rule, the progress bar and the wording of errors."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn
from tqdm import tqdm

T = TypeVar("T")
Bar: TypeAlias = "tqdm[Any]"  # the type of a progress bar


def device() -> torch.device:
    """The device that `fit`, `distill` and the chapters use: the first CUDA GPU, else the CPU.

    Under `torchrun` it is the GPU of this process.
    """
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def profile(cpu: T, gpu: T) -> T:
    """Pick the size of an experiment: `cpu` on two cores, `gpu` where :func:`device` is a GPU."""
    return gpu if device().type == "cuda" else cpu


def setup() -> str:
    """Prepare a notebook (figure style, if the plotting libraries are there) and say where it runs.

    The sentence names the device, says how long a chapter takes there, and in Colab how to get a GPU.
    """
    from kdutils import plot

    plot.use_style()
    if device().type == "cuda":
        name = torch.cuda.get_device_name()
        return f'Running on {name}: the larger, GPU-sized experiments are used; for their time see "At a glance".'
    hint = " (menu Runtime, Change runtime type, choose a GPU; then Run all)" if "google.colab" in sys.modules else ""
    return (
        'Running on the CPU: a chapter takes up to two minutes on two cores; for this one see "At a glance". '
        f"A GPU is optional{hint}."
    )


def cache_folder() -> Path:
    """Where downloads are kept: `$KDUTILS_HOME`, else `~/.cache/kdutils`."""
    return Path(os.environ.get("KDUTILS_HOME") or Path.home() / ".cache" / "kdutils")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment the old one or the new one is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block and give their old state back after it.

    Dropout, `DataLoader` and weight initialisation draw from the global generators, so a function
    that promises "same seed, same numbers" has to set them, and may not leave them changed.
    """
    check_seed(seed)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def check_seed(seed: int) -> None:
    """Raise unless `seed` is an integer from 0 to 2⁶³ − 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r:.60}.")


def check_positive_int(name: str, value: Any) -> None:
    """Raise unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def check_number(name: str, value: Any, low: float, *, above: bool = False) -> None:
    """Raise unless `value` is a finite number of at least `low`, or strictly above it with `above`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < low or (above and value == low):
        wanted = "positive finite number" if above and low == 0 else f"finite number of at least {low:g}"
        raise ValueError(f"{name} must be a {wanted}, got {value!r:.60}.")


def nearest(argument: str, name: object, known: Iterable[str]) -> str:
    """The sentence for an unknown name: what came, the nearest known one, and (if they are few) all of them."""
    names = sorted(known)
    close = max(names, key=lambda each: difflib.SequenceMatcher(None, str(name).lower(), each.lower()).ratio())
    listed = ", ".join(names)
    rest = f"known are {listed}" if len(listed) <= 120 else f"{len(names)} are known"
    return f"{argument} {name!r:.60} is unknown: the nearest is {close!r}; {rest}."


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put `model` and all its parts in eval mode for the block; each part gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def model_device(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer (the CPU if it has neither)."""
    for tensor in [*model.parameters(), *model.buffers()]:
        return tensor.device
    return torch.device("cpu")


def in_notebook() -> bool:
    """Whether a live notebook's kernel runs this."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def progress(total: int | None, label: str, show: bool = True) -> Bar:
    """A bar with the time left, in a terminal and in a live notebook.

    It vanishes when it is done, and `KDUTILS_PROGRESS=0` switches it off: that is how notebooks are
    executed for storing, so that no bar is left in an output.
    """
    wanted = show and os.environ.get("KDUTILS_PROGRESS", "1") != "0"
    live = sys.stderr.isatty() or in_notebook()
    return tqdm(total=total, desc=label, disable=not (wanted and live), leave=False, file=sys.stderr)
