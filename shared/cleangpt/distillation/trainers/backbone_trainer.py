"""Fits the student's blocks one after another to the teacher's hidden states.

Shapes: B rows, T positions, N positions with text, D the teacher's width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.losses import HiddenStateLoss
from cleangpt.distillation.stage import StagePlan, rates_of, standing_still
from cleangpt.distillation.stitching import StitchingLayers
from cleangpt.distillation.text import present
from cleangpt.trainers.history import History


class BackboneTrainer:
    """Fits each block to the output of its teacher block; its input comes from the student's own earlier blocks.

    Args:
        feeds: the teacher block for each student block, from `block_map`.
        freeze_previous: whether the blocks before the one that is fitted stand still, or are fitted with it.
    """

    def __init__(
        self,
        teacher: Blocks,
        student: Blocks,
        stitches: StitchingLayers,
        feeds: Sequence[int],
        loss: HiddenStateLoss,
        *,
        freeze_previous: bool = True,
    ) -> None:
        self._teacher = teacher
        self._student = student
        self._stitches = stitches
        self._feeds = feeds
        self._loss = loss
        self._freeze_previous = freeze_previous

    def train(self, plan: StagePlan, epochs_per_block: int, lr_per_block: float | Sequence[float]) -> list[History]:
        """Fits all blocks and returns their histories, in order. Raises the errors of `rates_of` and StagePlan.fit."""
        rates = rates_of(lr_per_block, len(self._feeds))
        with standing_still(self._student.model, self._stitches):
            return [self._fit(plan, block, epochs_per_block, rate) for block, rate in enumerate(rates)]

    def _fit(self, plan: StagePlan, block: int, epochs: int, lr: float) -> History:
        def objective(batch: Batch) -> Tensor:
            counts_BT = present(batch)
            with torch.no_grad():
                wanted_ND = self._teacher.after(batch.ids_BT, self._feeds[block])[counts_BT]
            found_ND = self._stitches(block, self._student.after(batch.ids_BT, block)[counts_BT])
            loss: Tensor = self._loss(found_ND, wanted_ND)
            return loss

        fitted = range(block if self._freeze_previous else 0, block + 1)
        parameters = [each for number in fitted for each in self._student.parameters_of(number)]
        parameters += self._stitches.maps[block].parameters()
        return plan.fit(f"block_{block:05d}", parameters, objective, epochs, lr, models=[self._student.model])
