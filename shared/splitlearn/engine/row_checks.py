"""Checks of rows before a step computes with them: bad rows of one session would fail all sessions of the step.

Shapes: T rows, D hidden size.
"""

import math

import torch

from splitlearn.errors import BadRows
from splitlearn.model.part import Part


class RowChecks:
    """Knows the shape and dtype of one part's rows, and which token ids its embedding table has."""

    def __init__(self, part: Part) -> None:
        self._part = part
        # transformers' configs take microseconds to be asked, and every step asks
        self._width = part.hidden_size
        self._n_ids = _table_size(part) if part.spec.begin else 0

    def check_shape(self, rows: torch.Tensor) -> None:
        """Checks shape and dtype, and no value: runs on the event loop's thread.

        Raises:
            BadRows: neither token ids [T] (int64) for a part that begins the model, nor hidden states [T, D] in the
                part's dtype for another.
        """
        begins, width = self._part.spec.begin, self._width
        dtype = torch.int64 if begins else self._part.dtype
        if rows.ndim != 1 if begins else rows.ndim != 2 or rows.shape[1] != width:
            wanted = "ids must have the shape [T]" if begins else f"rows must have the shape [T, {width}]"
            raise BadRows(f"{wanted}, found {list(rows.shape)}")
        if rows.dtype != dtype:
            what = "token ids" if begins else "rows"
            why = "" if begins else ", as the fingerprint says"
            raise BadRows(f"{what} must be {_name(dtype)}{why}; found {_name(rows.dtype)}")

    def refusal(self, rows: torch.Tensor) -> BadRows | None:
        """Checks all values, on the device thread. The error to raise, or None."""
        if not self._part.spec.begin:
            return None if _are_finite(rows) else _not_finite(rows)
        least, most = (int(extreme) for extreme in rows.aminmax())
        if least >= 0 and most < self._n_ids:
            return None
        return BadRows(
            f"token id {least if least < 0 else most} does not exist: the embedding table has {self._n_ids} rows, so "
            f"ids go from 0 to {self._n_ids - 1}; nothing was computed"
        )


def _table_size(part: Part) -> int:
    weight = getattr(part.model.get_submodule(part.layout.token_embedding), "weight", None)
    if isinstance(weight, torch.Tensor):
        return int(weight.shape[0])
    return int(part.config.get_text_config(decoder=True).vocab_size)


def _are_finite(rows_TD: torch.Tensor) -> bool:
    """No sum is finite that has NaN or infinity in it, and to add up takes half the time of looking at each number."""
    if math.isfinite(rows_TD.sum(dtype=torch.float32).item()):
        return True
    # large numbers may add up to infinity
    return bool(torch.isfinite(rows_TD).all())


def _not_finite(rows_TD: torch.Tensor) -> BadRows:
    bad = int((~torch.isfinite(rows_TD)).any(dim=1).sum())
    return BadRows(f"{bad} of {rows_TD.shape[0]} rows hold NaN or infinity; nothing was computed")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
