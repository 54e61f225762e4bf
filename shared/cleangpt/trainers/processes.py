"""Data parallelism with torch's DDP: several processes train one model, each on its share of every batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from cleangpt.data.batches import Batch


@dataclass(frozen=True)
class Processes:
    """This process's `rank`, counted from 0, among `count` processes."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints to the terminal."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """Every `count`-th row, starting at `rank`. The shares of all processes make up the whole batch.

        With fewer rows than processes, some shares are empty.
        """
        if self.count == 1:
            return batch
        return batch.of_rows(slice(self.rank, None, self.count))

    def sum(self, value_: Tensor) -> Tensor:
        """The sum of all processes' tensors, written into `value_`; all processes must call it."""
        if self.count > 1:
            distributed.all_reduce(value_)
        return value_

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process passes True; all processes must call it."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(int(flag), device=device)))


def own_device(device: torch.device) -> torch.device:
    """The device of this process: if `device` is "cuda" without an index, the GPU of torchrun's local rank."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The process group: an existing one, else the one that `torchrun` started, else this process alone."""
    if distributed.is_available() and distributed.is_initialized():
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    elif "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        if device.type == "cuda":
            torch.cuda.set_device(own_device(device))
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield Processes(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()
    else:
        yield Processes()
