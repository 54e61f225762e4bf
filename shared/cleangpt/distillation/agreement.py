"""Measures how often a model with a shadow predicts the whole model's most likely id (teacher-forced).

Shapes: N predicting positions, V vocabulary.
"""

from collections.abc import Iterable

import torch

from cleangpt.data.batches import Batch
from cleangpt.distillation.ends import Ends, ShadowedModel
from cleangpt.distillation.teacher import TrunkTeacher
from cleangpt.distillation.text import lengths
from cleangpt.model.shadow import Shadow


def top1_agreement(ends: Ends, trunk: TrunkTeacher, shadow: Shadow, batches: Iterable[Batch]) -> float:
    """The share, 0 to 1, of predicting positions at which bottom, shadow and top agree with the whole model.

    Raises:
        TrunkMismatchError: the shadow or the trunk does not fit the ends.
    """
    ends.check(trunk.fingerprint, "the trunk")
    model = ShadowedModel(ends, shadow)
    agreed = asked = 0
    for batch in batches:
        with torch.no_grad():
            wanted_NV = ends.logits(trunk.hidden(ends.hidden(batch.ids_BT), lengths(batch)), batch)
        same_N = model.logits(batch).argmax(-1) == wanted_NV.argmax(-1)
        agreed += int(same_N.sum())
        asked += same_N.numel()
    return agreed / max(1, asked)
