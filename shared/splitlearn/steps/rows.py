"""Where the sessions of one step keep their rows, and what a layer asks of attention there.

Shapes: T rows of all sessions, t rows of one, N rows that it then holds, H heads, K heads of keys, d width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from splitlearn.kv.store import SessionKV
from splitlearn.kv.table import SessionTable

_WINDOW = sliding_window_causal_mask_function(1)


class MaskRule:
    """Stands where a mask would: which rows a row may see, other than all before it."""

    def __init__(self, may_see: Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self._may_see = may_see
        self._known: dict[tuple[int, int], torch.Tensor] = {}
        self._first: dict[int, int | None] = {}

    def table(self, position: int, count: int, device: torch.device) -> torch.Tensor:
        """Booleans [t, N] for `count` rows from `position` on."""
        key = (position, count)
        if key not in self._known:
            rows_N = torch.arange(position + count, device=device)
            seen = self._may_see(0, 0, rows_N[position:, None], rows_N[None, :])
            self._known[key] = seen.expand(count, position + count)
        return self._known[key]

    def first_seen(self, position: int) -> int | None:
        """From where on the row at `position` sees all rows; None if it does not see them in one piece."""
        if position not in self._first:
            seen_N = self.table(position, 1, torch.device("cpu"))[0]
            start = seen_N.shape[0] - int(seen_N.sum())
            self._first[position] = start if bool(seen_N[start:].all()) else None
        return self._first[position]

    @cached_property
    def window(self) -> int | None:
        """How many rows a row sees, with itself, where that is all that the rule says; None for any other rule.

        transformers makes each rule anew, of the same code and with its numbers in the closure.
        """
        if not _same_code(self._may_see, _WINDOW):
            return None
        overlay, causal = _closure(self._may_see)[0]
        if causal is not causal_mask_function or not _same_code(overlay, _closure(_WINDOW)[0][0]):
            return None
        return int(_closure(overlay)[0])


@dataclass(frozen=True)
class How:
    """What an architecture does to its keys, scores and weights."""

    expand: Callable[..., Sequence[torch.Tensor]] | None
    scaling: float | None
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def is_plain(self) -> bool:
        return self.expand is None and self.softcap is None and self.sinks is None


class StepRows(Protocol):
    """Where the sessions of one step keep their rows, and what attends to them as they lie there.

    Attributes:
        table: what our kernels read of it; None where none does.
    """

    table: SessionTable | None

    def keep(self, layer: int, keys_KTd: torch.Tensor, values_KTd: torch.Tensor) -> None:
        """Puts the step's rows of one layer where the sessions keep theirs."""

    def held(self, index: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of one session in a layer, [K, N, d]."""

    def attend(
        self, layer: int, query_HTd: torch.Tensor, rule: MaskRule | None, how: How
    ) -> tuple[torch.Tensor, Sequence[int]] | None:
        """Outputs [T, H, d] in one piece, and the sessions whose rows are still missing in them; None: all are."""


@dataclass(frozen=True)
class Seen:
    """What rows of a step may see, by one rule.

    Attributes:
        starts: of each session the first row that its row sees, int64 [S]; None: all of them see all before them.
        prompts_are_ruled: rows that come in one session do not see all before them.
    """

    starts: torch.Tensor | None
    prompts_are_ruled: bool


class PieceRows:
    """Of sessions that hold the rows of a layer in one piece; our kernels attend to them where they can.

    Args:
        sessions: with the rows that each keeps and those that it brings; room is made for them.
    """

    def __init__(self, sessions: Sequence[tuple[SessionKV, int, int]]) -> None:
        self._sessions = sessions
        self._lengths = [count for _, _, count in sessions]
        self._held: dict[int, Sequence[torch.Tensor]] = {}
        # a step's rules are few, and most layers ask by the same
        self._seen: dict[MaskRule | None, Seen | None] = {}
        self._rooms: list[Sequence[torch.Tensor]] = []
        for kv, position, count in sessions:
            kv.place(position, count)
        self.table = SessionTable.of(sessions)
        if self.table is None:
            self._rooms = [kv.views(position, count) for kv, position, count in sessions]

    def keep(self, layer: int, keys_KTd: torch.Tensor, values_KTd: torch.Tensor) -> None:
        if self.table is not None:
            self.table.keep(2 * layer, keys_KTd)
            self.table.keep(2 * layer + 1, values_KTd)
            return
        rooms = [room[2 * layer] for room in self._rooms] + [room[2 * layer + 1] for room in self._rooms]
        news = [*torch.split(keys_KTd, self._lengths, 1), *torch.split(values_KTd, self._lengths, 1)]
        torch._foreach_copy_(rooms, news)

    def held(self, index: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index not in self._held:
            kv, position, count = self._sessions[index]
            self._held[index] = kv.views(0, position + count)
        return self._held[index][2 * layer], self._held[index][2 * layer + 1]

    def attend(
        self, layer: int, query_HTd: torch.Tensor, rule: MaskRule | None, how: How
    ) -> tuple[torch.Tensor, Sequence[int]] | None:
        """Prompts whose rows do not see all before them are left out."""
        table, seen = self.table, self.seen(rule)
        if table is None or seen is None or not how.is_plain:
            return None
        output_THd = table.attend(layer, query_HTd, seen.starts, how.scaling)
        prompts = [index for index, count in enumerate(self._lengths) if count > 1]
        if seen.prompts_are_ruled:
            return output_THd, prompts
        for index in prompts:
            table.attend_prompt(layer, index, query_HTd, output_THd, how.scaling)
        return output_THd, ()

    def seen(self, rule: MaskRule | None) -> "Seen | None":
        """What rows may see; None where one that comes alone sees more than one piece of those before it."""
        if rule not in self._seen:
            self._seen[rule] = self._found_seen(rule)
        return self._seen[rule]

    def _found_seen(self, rule: MaskRule | None) -> "Seen | None":
        if rule is None:
            return Seen(None, False)
        firsts = [rule.first_seen(position) if count == 1 else 0 for _, position, count in self._sessions]
        starts = [first for first in firsts if first is not None]
        if len(starts) != len(firsts):
            return None
        return Seen(torch.tensor(starts, dtype=torch.int64) if any(starts) else None, max(self._lengths) > 1)


def _same_code(one: Any, other: Any) -> bool:
    return getattr(one, "__code__", None) is other.__code__


def _closure(function: Any) -> list[Any]:
    return [cell.cell_contents for cell in function.__closure__]
