"""The text that a distillation reads, and which of its positions count.

Shapes: B rows, T positions, N predicting positions, V vocabulary.
"""

import torch
from torch import Tensor

from cleangpt.data.batches import Batch


def present(batch: Batch) -> Tensor:
    """Marks the positions with text, bool [B, T]: those up to the last learned id of each row.

    Later positions cannot be told from padding.
    """
    if batch.learned_BT is None:
        return torch.ones_like(batch.ids_BT, dtype=torch.bool)
    return batch.learned_BT.flip(1).cumsum(1).flip(1) > 0


def lengths(batch: Batch) -> list[int]:
    """How many positions of each row have text."""
    found: list[int] = present(batch).sum(1).tolist()
    return found


def predicting(batch: Batch) -> Tensor:
    """Marks the predicting positions, those from which an id has to be predicted, bool [B, T]."""
    found_BT = torch.ones_like(batch.ids_BT, dtype=torch.bool)
    if batch.learned_BT is not None:
        found_BT[:, :-1] = batch.learned_BT[:, 1:]
    found_BT[:, -1] = False
    return found_BT


def next_ids(batch: Batch) -> Tensor:
    """The ids [N] after the predicting positions."""
    return batch.ids_BT[:, 1:][predicting(batch)[:, :-1]]
