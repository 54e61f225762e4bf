"""Who is learnt from: a whole causal model that is here, or a trunk that only takes and gives hidden states.

Shapes: B rows, T positions, D hidden size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleangpt.model.folder import open_model
from splitlearn.model.part import Part


class TrunkTeacher(Protocol):
    """Middle layers whose weights need not be here. `fingerprint` names the bottom and top that fit them."""

    @property
    def fingerprint(self) -> str: ...

    def hidden(self, hidden_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
        """What the trunk makes of the bottom's rows [B, T, D], of which row b is padding from `lengths[b]` on.

        What stands in the answer at padding means nothing. The answer has the dtype that the trunk computes in.
        """
        ...


class LocalTrunk:
    """A trunk that is in this process: a part of a model without embeddings and head."""

    def __init__(self, part: Part, fingerprint: str = "") -> None:
        self._part = part
        self.fingerprint = fingerprint

    def hidden(self, hidden_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
        """As TrunkTeacher.hidden."""
        with torch.no_grad():
            return torch.as_tensor(self._part.run(hidden_BTD.to(self._part.dtype)))


def load_teacher(source: PreTrainedModel | Path | str) -> PreTrainedModel:
    """The teacher in evaluation mode, without gradients: a model as it is, or from a folder.

    The folder is a Hugging Face one or a sepweight directory. Raises what `open_model` raises.
    """
    model = source if isinstance(source, PreTrainedModel) else open_model(Path(source))
    return model.eval().requires_grad_(False)
