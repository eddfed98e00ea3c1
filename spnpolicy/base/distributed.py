"""Several processes that train one run together: what one of them must know of the others.

Started by torchrun, every process holds a replica of the networks, a share of the environments and a share of replay.
Gradients are averaged before each step, so all replicas stay equal. Without torchrun there is one process, and every
function here returns its argument.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from spnpolicy.base.errors import ConfigError


class World(NamedTuple):
    """Place of this process among those that train together."""

    rank: int
    """0 for the one that writes the files of the run."""
    size: int
    """Number of processes."""


def world() -> World:
    """Return the place of this process; rank 0 of 1 outside of a process group."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


@contextmanager
def process_group() -> Iterator[World]:
    """Join the processes that torchrun has started, for the block; do nothing without torchrun.

    Tensors on the CPU travel through gloo, those on a GPU through nccl. Inside such a block another one does nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield world()
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield world()
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Return the device of this process: with several GPUs, "cuda" means the one with its local rank."""
    if device == "cuda" and world().size > 1:
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    return device


def share(name: str, total: int) -> int:
    """Return this process's equal share of a number that counts over all processes.

    Raises:
        ConfigError: it cannot be divided equally.
    """
    size = world().size
    if total % size:
        raise ConfigError(f"{name} is {total}, but must be a multiple of {size}, the number of processes.")
    return total // size


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in one message; the result has the same bits everywhere."""
    size = world().size
    if size == 1:
        return
    tensors = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= size
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


def mean(*values: float) -> list[float]:
    """Return the mean of each number over all processes."""
    if world().size == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    average([numbers])
    return numbers.tolist()


def largest(*values: float) -> list[float]:
    """Return the largest of each number over all processes."""
    if world().size == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return numbers.tolist()


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return mean(float(flag))[0] > 0.0


def barrier() -> None:
    """Wait until every process has come here."""
    if world().size > 1:
        dist.barrier()


def gather_rows(rows: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "all_rows columns"]:
    """Return the rows of all processes, those of rank 0 first."""
    size = world().size
    if size == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(counts, torch.tensor([len(rows)]))
    longest = max(int(count) for count in counts)
    padded = torch.zeros(longest, rows.shape[1], dtype=torch.float64)
    padded[: len(rows)] = torch.from_numpy(rows)
    gathered = [torch.zeros_like(padded) for _ in range(size)]
    dist.all_gather(gathered, padded)
    return np.concatenate([part[: int(count)].numpy() for part, count in zip(gathered, counts, strict=True)])
