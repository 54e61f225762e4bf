"""Runs bottom and top as one model, with a shadow in place of the trunk between them.

Shapes: T rows, D hidden size, W the shadow's own width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from splitlearn.attention.page_budget import PageBudget
from splitlearn.errors import NoRoom, PositionNotReached
from splitlearn.model.part import Part
from splitlearn.runner.interface import FusionReport, Runner, SequenceInput


@dataclass(frozen=True, eq=False)
class ShadowPart:
    """A shadow as a part, which takes and gives rows of its own width.

    Attributes:
        part: its layers, filled: [T, W] to [T, W]; None if it has none.
        entrance: the bottom's rows [T, D] to the layers', [T, W].
        exit: the layers' rows [T, W] to what is added to the bottom's, [T, D]; None if they are the trunk's.
    """

    part: Part | None
    entrance: nn.Module
    exit: nn.Module | None = None

    def leave(self, hidden_TD: torch.Tensor, rows_TW: torch.Tensor) -> torch.Tensor:
        """Stand-ins for the trunk's rows, [T, D].

        Args:
            hidden_TD: the bottom's rows.
            rows_TW: what the layers made of them.
        """
        return rows_TW if self.exit is None else hidden_TD + self.exit(rows_TW.to(hidden_TD.device))


class ShadowedRunner(Runner[Any]):
    """Takes token ids and gives logits, as the whole model whose next tokens it guesses.

    Args:
        shadow: fits between bottom and top.
        bottom, top: runners of their own, which may run in other engines too, on the same device thread.
        layers: runs the shadow's part, on the same device; None if it has none.

    Attributes:
        part: the bottom, which rows enter by.
    """

    def __init__(self, shadow: ShadowPart, bottom: Runner[Any], layers: Runner[Any] | None, top: Runner[Any]) -> None:
        self.part = bottom.part
        self._shadow = shadow
        self._runners = runners = (bottom, top) if layers is None else (bottom, layers, top)
        self.is_batched = all(each.is_batched for each in runners)
        reports = [each.fusion for each in runners]
        self.fusion = FusionReport(
            sum(each.n_layers for each in reports),
            sum(each.n_fused_attention for each in reports),
            sum(each.n_fused_layers for each in reports),
            all(each.is_decoder_fused for each in reports),
            sum(each.n_experts for each in reports),
            sum(each.n_fused_experts for each in reports),
        )

    @property
    def ends_model(self) -> bool:
        return self._runners[-1].ends_model

    @property
    def can_truncate(self) -> bool:
        return all(each.can_truncate for each in self._runners)

    @property
    def row_bytes(self) -> int:
        return sum(each.row_bytes for each in self._runners)

    def page_budget(self, page_size: int) -> PageBudget:
        budgets = [each.page_budget(page_size) for each in self._runners]
        page_size = max(each.page_size for each in budgets)
        n_pages = min(each.n_pages * each.page_size for each in budgets) // page_size
        if not n_pages:
            raise NoRoom(f"the memory for guesses does not hold a page of {page_size} rows; give more, or free memory")
        return PageBudget(n_pages, page_size)

    def new_kv(self, max_length: int | None) -> tuple[Any, ...]:
        return tuple(each.new_kv(max_length) for each in self._runners)

    def release(self, kv: tuple[Any, ...], n_rows: int = 0) -> None:
        for each, own in zip(self._runners, kv, strict=True):
            each.release(own, n_rows)

    def truncate(self, kv: tuple[Any, ...], position: int) -> tuple[Any, ...]:
        return tuple(each.truncate(own, position) for each, own in zip(self._runners, kv, strict=True))

    @property
    def can_share_rows(self) -> bool:
        return False

    def copy_prefix(self, kv: tuple[Any, ...], cached: tuple[Any, ...], n_rows: int) -> tuple[Any, ...]:
        raise PositionNotReached("sessions with a shadow share no rows: send them again from 0")

    @torch.inference_mode()
    def run(self, inputs: Sequence[SequenceInput[Any]]) -> list[torch.Tensor]:
        shadow, (bottom, *layers, top) = self._shadow, self._runners
        sent = [each.to(self.part.device) for each in bottom.run(_with(inputs, 0))]
        found = [shadow.entrance(rows_TD) for rows_TD in sent]
        for number, runner in enumerate(layers, start=1):
            found = runner.run(_with(inputs, number, found))
        return top.run(_with(inputs, -1, [shadow.leave(*each) for each in zip(sent, found, strict=True)]))


def _with(
    inputs: Sequence[SequenceInput[Any]], number: int, rows: Sequence[torch.Tensor] | None = None
) -> list[SequenceInput[Any]]:
    """The same sequences for one of the runners, with these rows in place of their own."""
    rows = [each.rows for each in inputs] if rows is None else rows
    return [replace(each, kv=each.kv[number], rows=own) for each, own in zip(inputs, rows, strict=True)]
