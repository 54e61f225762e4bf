"""The objective that a step minimizes: the mean cross entropy of the learned ids.

Shapes: B rows, T positions, P = T - 1 predicting positions, N learned positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from cleangpt.data.batches import Batch
from cleangpt.trainers.causal_logits import causal_logits, check_ids

Objective = Callable[[Any, Batch], Tensor]
"""(model, batch on the model's device) -> the mean over `learned_count(batch)` positions, a differentiable scalar."""


def learned_loss(model: Any, batch: Batch) -> Tensor:
    """The mean cross entropy over the learned positions of a batch (nats), a differentiable float32 scalar.

    `model` is a causal language model of transformers. If all ids are learned, the last id of a row is only predicted
    and never read, so such rows may be one id longer than the model's context.

    Raises:
        NotCausalError: the model's predictions depend on later ids.
        BadInputError, ModelFormError: the model lacks ids of the batch, or is a plain module.
    """
    ids_BT = batch.ids_BT
    # the last id of a row may only be predicted
    check_ids(model, ids_BT)
    if batch.learned_BT is None:
        logits_NV, expected_N = causal_logits(model, ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten()
    else:
        # the head runs only where there is something to learn; the last ids are read although nothing follows them,
        # because the demo model was trained that way, and dropping them would change the rounding
        learned_BP = batch.learned_BT[:, 1:]
        predicting_BT = functional.pad(learned_BP, (0, 1), value=False)
        logits_NV, expected_N = causal_logits(model, ids_BT, predicting_BT), ids_BT[:, 1:][learned_BP]
    return functional.cross_entropy(logits_NV.float(), expected_N)


def learned_count(batch: Batch) -> int:
    """How many ids of a batch the model has to predict."""
    if batch.learned_BT is None:
        return batch.ids_BT.shape[0] * (batch.ids_BT.shape[1] - 1)
    return int(batch.learned_BT[:, 1:].sum())


class ObjectiveModule(nn.Module):
    """The objective as a module's forward pass, as torch's DDP needs for its gradient exchange."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch) -> Tensor:
        """The objective's value for `batch`."""
        return self._objective(self.model, batch)
