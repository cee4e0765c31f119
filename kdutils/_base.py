"""What every module needs: the device, the seed rule, the progress bar and the wording of errors."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

T = TypeVar("T")
Bar = tqdm  # the type of a progress bar


def device() -> torch.device:
    """The device that `fit`, `distill` and the chapters use: the first CUDA GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def profile(cpu: T, gpu: T) -> T:
    """Pick the size of an experiment: `cpu` on two cores, `gpu` where :func:`device` is a GPU."""
    return gpu if device().type == "cuda" else cpu


def setup() -> str:
    """Prepare a notebook (figure style, if the plotting libraries are there) and say where it runs."""
    from kdutils import plot

    plot.use_style()
    if device().type == "cuda":
        return f"Running on {torch.cuda.get_device_name()}: the larger, GPU-sized experiments are used."
    hint = " (in Colab: Runtime, Change runtime type, GPU)" if "google.colab" in sys.modules else ""
    return f"Running on the CPU: every experiment is sized for two cores. A GPU is optional{hint}."


def cache_folder() -> Path:
    """Where downloads are kept: `$KDUTILS_HOME`, else `~/.cache/kdutils`."""
    return Path(os.environ.get("KDUTILS_HOME") or Path.home() / ".cache" / "kdutils")


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
    """Raise unless `seed` is a non-negative integer."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}.")


def check_positive_int(name: str, value: Any) -> None:
    """Raise unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def nearest(argument: str, name: str, known: Iterable[str]) -> str:
    """The sentence for an unknown name: what came, the nearest known one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    guess = f"; did you mean {close[0]!r}?" if close else "."
    return f"{argument} {name!r} is unknown{guess} Known: {', '.join(names)}."


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


def progress(total: int | None, label: str, show: bool = True) -> tqdm[Any]:
    """A bar with the time left, in a terminal and in a live notebook.

    It vanishes when it is done, and `KDUTILS_PROGRESS=0` switches it off: that is how notebooks are
    executed for storing, so that no bar is left in an output.
    """
    wanted = show and os.environ.get("KDUTILS_PROGRESS", "1") != "0"
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, desc=label, disable=not (wanted and live), leave=False, file=sys.stderr)
