"""Several processes that train one model, each on its share of every batch (torch's DDP)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from cleangpt.data.batches import Batch


@dataclass(frozen=True)
class Processes:
    """This process's place (`rank`, from 0) among `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks to the terminal."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """Every `count`-th row, beginning at `rank`; the shares of all processes are the whole batch.

        The share of a process for which no row is left has no rows.
        """
        if self.count == 1:
            return batch
        return batch.of_rows(slice(self.rank, None, self.count))

    def sum(self, value_: Tensor) -> Tensor:
        """The sum of all processes' tensors, written into `value_`; all processes have to call it."""
        if self.count > 1:
            distributed.all_reduce(value_)
        return value_

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so; all processes have to call it."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(int(flag), device=device)))


def own_device(device: torch.device) -> torch.device:
    """The device of this process: `torchrun` gives each its number, which names a GPU where `device` is any GPU."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` started, or those of a group that is already there; without either, this one."""
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
