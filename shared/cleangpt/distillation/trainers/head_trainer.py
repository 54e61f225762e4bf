"""Fits the student's predictions to the teacher's: its head alone, or the whole student end to end.

Shapes: N predicting positions, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.distillation.blocks import Blocks
from cleangpt.distillation.losses import loss_of_logits
from cleangpt.distillation.stage import StagePlan, standing_still
from cleangpt.distillation.text import next_ids
from cleangpt.trainers.history import History


class HeadTrainer:
    """Fits by the logits. Teacher and student must have the same vocabulary; DistillationTrainer checks this.

    Args:
        loss: a LogitLoss, or one of your own that is called with the logits of student and teacher [N, V], and with
            the ids [N] that follow if it needs a third argument.

    Raises:
        LossArgumentsError: the loss takes other arguments.
    """

    def __init__(self, teacher: Blocks, student: Blocks, loss: Callable[..., Tensor]) -> None:
        self._teacher = teacher
        self._student = student
        self._loss = loss_of_logits(loss)

    def train(self, plan: StagePlan, epochs: int, lr: float, *, whole_student: bool = False) -> History:
        """Fits final norm and head, or every parameter. Raises the errors of StagePlan.fit."""

        def objective(batch: Batch) -> Tensor:
            with torch.no_grad():
                wanted_NV = self._teacher.logits(batch)
            loss: Tensor = self._loss(self._student.logits(batch), wanted_NV, next_ids(batch))
            return loss

        model = self._student.model
        parameters = list(model.parameters()) if whole_student else self._student.head_parameters()
        name = "end_to_end" if whole_student else "head"
        with standing_still(model):
            return plan.fit(name, parameters, objective, epochs, lr, models=[model])
