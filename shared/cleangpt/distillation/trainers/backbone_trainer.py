"""Fits the student's blocks one after another to the teacher's hidden states.

Shapes: B rows, T positions, N positions with text, D the teacher's width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.losses import HiddenStateLoss
from cleangpt.distillation.stage import StagePlan, standing_still
from cleangpt.distillation.stitching import StitchingLayers
from cleangpt.distillation.text import present
from cleangpt.trainers.history import History


class BackboneTrainer:
    """Fits each block to the output of its teacher block; its input comes from the student's own earlier blocks.

    Args:
        feeds: the teacher block for each student block, from `block_map`.
    """

    def __init__(
        self,
        teacher: Blocks,
        student: Blocks,
        stitches: StitchingLayers,
        feeds: Sequence[int],
        loss: HiddenStateLoss,
    ) -> None:
        self._teacher = teacher
        self._student = student
        self._stitches = stitches
        self._feeds = feeds
        self._loss = loss

    def train(self, plan: StagePlan, epochs_per_block: int, lr_per_block: float) -> list[History]:
        """Fits all blocks and returns their histories, in order. Raises the errors of StagePlan.fit."""
        with standing_still(self._student.model, self._stitches):
            self._student.model.train()
            histories = [self._fit(plan, block, epochs_per_block, lr_per_block) for block in range(len(self._feeds))]
            self._student.model.eval()
        return histories

    def _fit(self, plan: StagePlan, block: int, epochs: int, lr: float) -> History:
        def objective(batch: Batch) -> Tensor:
            counts_BT = present(batch)
            with torch.no_grad():
                wanted_ND = self._teacher.after(batch.ids_BT, self._feeds[block])[counts_BT]
            found_ND = self._stitches(block, self._student.after(batch.ids_BT, block)[counts_BT])
            loss: Tensor = self._loss(found_ND, wanted_ND)
            return loss

        parameters = [*self._student.parameters_of(block), *self._stitches.maps[block].parameters()]
        return plan.fit(f"block_{block:05d}", parameters, objective, epochs, lr)
