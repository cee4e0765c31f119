"""Processes that are killed with SIGKILL, again and again, at moments drawn at random."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo  # what every optimiser imports in its first step
from tqdm import tqdm

import tests.common  # noqa: F401

# A server process imports all this once, and each run is forked from it: a kill hits the work, not an import.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])
tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind

Work = Callable[..., None]


def start(work: Work, *arguments: Any) -> BaseProcess:
    process = _SERVER.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def undisturbed(work: Work, *arguments: Any) -> float:
    """Let it come to its end; gives the seconds that it took."""
    start(int).join()  # by then the server is there
    begin = time.perf_counter()
    process = start(work, *arguments)
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - begin


def killed(
    work: Work,
    arguments: tuple[Any, ...],
    count: int,
    whole: float,
    *,
    end: Callable[[], None],
    look: Callable[[], None] = lambda: None,
    dead: Callable[[], None] = lambda: None,
) -> None:
    """Start `work`, kill it at a random moment of `whole` seconds, start it again and let it come to its end; again.

    Args:
        work: a function of a module, which goes on where it stopped.
        arguments: of `work`.
        count: how often it is killed, and afterwards comes to its end.
        whole: the seconds that it takes undisturbed.
        end: is called whenever it came to its end; may make it begin anew.
        look: is called all the time while it runs.
        dead: is called after each kill.
    """
    generator, left, resumed = torch.Generator().manual_seed(count), count, False
    while left or resumed:
        process, begin = start(work, *arguments), time.perf_counter()
        moment = float("inf") if resumed else whole * float(torch.rand((), generator=generator))
        while process.is_alive() and time.perf_counter() - begin < moment:
            look()
            time.sleep(0.005)
        process.kill()
        process.join()
        if process.exitcode == 0:
            end()
            resumed = False
        else:
            assert process.exitcode == -signal.SIGKILL, process.exitcode
            dead()
            left, resumed = left - 1, True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_in_the_midst(work: Work, argument: Path, count: int, state: str) -> None:
    """Run `work`, which is killed when its `count`-th file is "half" written, "whole" but elsewhere, or "there"."""
    left, replace = [count], os.replace

    def dies(new: Path, old: Path) -> None:
        left[0] -= 1
        if not left[0]:
            if state == "half":
                os.truncate(new, new.stat().st_size // 2)
            elif state == "there":
                replace(new, old)
            die()
        replace(new, old)

    with patch.object(os, "replace", dies):
        work(argument)
