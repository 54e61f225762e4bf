"""The mean of an objective over held-out batches."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from cleangpt.data.batches import EpochBatches
from cleangpt.errors import EmptyDataError
from cleangpt.trainers.objective import Objective, learned_count
from cleangpt.trainers.processes import Processes


@dataclass(frozen=True)
class Measurement:
    """`loss` is the mean over `tokens` predicted ids, in nats per id unless the objective is another one."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """The number of equally likely ids that would leave the model as unsure; inf if it overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def measure(
    model: Any,
    data: EpochBatches,
    objective: Objective,
    device: torch.device,
    processes: Processes,
    *,
    bf16_autocast: bool = False,
) -> Measurement:
    """The mean of `objective` over the batches of the first epoch; `model` has to be in evaluation mode.

    The processes share the batches, and each returns the mean over all of them.

    Raises:
        EmptyDataError: there are no batches, or there is nothing to predict in them.
    """
    batches = data.batches(0)
    if not batches:
        raise EmptyDataError("the validation data has no batches; give it a row, or train without validation")
    sums = torch.zeros(2, dtype=torch.float64)
    for index in range(processes.rank, len(batches), processes.count):
        batch = batches[index]
        count = learned_count(batch)
        if not count:
            continue
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16_autocast):
            loss = objective(model, batch.to(device))
        sums += torch.tensor([float(loss) * count, count], dtype=torch.float64)
    loss_sum, n_learned = processes.sum(sums.to(device)).tolist()
    if not n_learned:
        raise EmptyDataError("nothing in the validation data is to be predicted; its rows need two ids at least")
    return Measurement(float(loss_sum / n_learned), int(n_learned))
