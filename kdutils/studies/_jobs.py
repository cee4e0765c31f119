"""The independent runs of a study, spread over processes of one thread each."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import torch

_WORK: list[Callable[[Any], object]] = []  # what forked workers inherit: a lab is too large to be sent to them


def jobs(description: str | None) -> int:
    """Read `--jobs` from the command line, and set one thread: so results do not depend on the number of jobs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    found: int = parser.parse_args().jobs
    torch.set_num_threads(1)
    return found


def spread(work: Callable[[Any], object], runs: Sequence[Any], jobs: int) -> None:
    """Call `work(run)` for every run, `jobs` at a time, and wait for all of them."""
    _WORK[:] = [work]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        pool.map(_call, runs, chunksize=1)


def _call(run: Any) -> None:
    _WORK[0](run)
