"""Teachers: a whole local causal model, or a trunk that only accepts and returns hidden states.

Shapes: B rows, T positions, D hidden size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cleangpt.model.folder import open_model
from cleangpt.model.form import check_form
from splitlearn.model.part import Part


class TrunkTeacher(Protocol):
    """Middle layers whose weights need not be local. `fingerprint` identifies the bottom and top that fit them."""

    @property
    def fingerprint(self) -> str: ...

    def hidden(self, hidden_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
        """The trunk's output for the bottom's rows [B, T, D], where row b is padding from position `lengths[b]` on.

        The output at padding is meaningless. It has the dtype that the trunk computes in.
        """
        ...


class LocalTrunk:
    """A trunk in this process: a part of a model without embeddings and head."""

    def __init__(self, part: Part, fingerprint: str = "") -> None:
        self._part = part
        self.fingerprint = fingerprint

    def hidden(self, hidden_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
        """See TrunkTeacher.hidden."""
        with torch.no_grad():
            return torch.as_tensor(self._part.run(hidden_BTD.to(self._part.dtype)))


def load_teacher(source: PreTrainedModel | Path | str) -> PreTrainedModel:
    """The teacher in evaluation mode, without gradients: the given model, or one loaded from a folder.

    The folder is a Hugging Face folder or a sepweight directory. Raises the errors of `open_model`, and ModelFormError.
    """
    model = open_model(Path(source)) if isinstance(source, str | Path) else source
    check_form(model)
    return model.eval().requires_grad_(False)
