"""Training on several processes, as `torchrun` starts them: who am I, and what do all of us have together?"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def join() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) outside `torchrun`. Joins the others if that is not done."""
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return 0, 1
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def shared(model: nn.Module, size: int) -> nn.Module:
    """The same network, whose gradients will be the mean over the processes."""
    return DistributedDataParallel(model) if size > 1 else model


def same_start(modules: Iterable[nn.Module]) -> None:
    """Give every process the first one's values."""
    if join()[1] > 1:
        for parameter in (p for module in modules for p in module.parameters()):
            dist.broadcast(parameter.data, 0)


def mean_gradients(modules: Iterable[nn.Module], size: int) -> None:
    """What :func:`shared` does, for small modules that are made in the first step."""
    if size > 1:
        for gradient in (p.grad for module in modules for p in module.parameters() if p.grad is not None):
            dist.all_reduce(gradient)
            gradient /= size


def total(value: Tensor, size: int) -> Tensor:
    """The sum over the processes."""
    if size > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def wait(size: int) -> None:
    """Until every process is here."""
    if size > 1:
        dist.barrier()
