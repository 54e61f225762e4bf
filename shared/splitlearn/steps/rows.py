"""Where the sessions of one step keep their rows, and what a layer asks of attention there.

Shapes: T rows of all sessions, t rows of one, N rows that it then holds, H heads, K heads of keys, d width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from splitlearn.hf.masks import MaskFunction, window_of
from splitlearn.kv.sequence_slice import SequenceSlice
from splitlearn.kv.store import SessionKV
from splitlearn.kv.table import ScoreRules, SessionTable
from splitlearn.torch_private import copy_all


class MaskRule:
    """Stands where a mask would: which rows a row may see, other than all before it."""

    def __init__(self, may_see: MaskFunction) -> None:
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

    def starts(self, position: int, count: int) -> torch.Tensor | None:
        """Of each of `count` rows from `position` on the first row that it sees, int64 [t]; None where one does not see
        just itself and one piece of rows before it."""
        limits_T = torch.arange(position + 1, position + count + 1)
        if self.window is not None:
            return (limits_T - self.window).clamp_(min=0)
        seen_TN = self.table(position, count, torch.device("cpu"))
        starts_T = limits_T - seen_TN.sum(1)
        rows_N = torch.arange(position + count)
        in_one_piece_TN = (rows_N >= starts_T[:, None]) & (rows_N < limits_T[:, None])
        return starts_T if bool((starts_T < limits_T).all()) and torch.equal(in_one_piece_TN, seen_TN) else None

    @cached_property
    def window(self) -> int | None:
        """How many rows a row sees, with itself, where that is all that the rule says; None for any other rule."""
        return window_of(self._may_see)


@dataclass(frozen=True)
class How:
    """What an architecture does to its keys, scores and weights."""

    expand: Callable[..., Sequence[torch.Tensor]] | None
    scaling: float | None
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def rules(self) -> ScoreRules:
        """As our kernels take it, which expand nothing."""
        return ScoreRules(self.scaling, self.softcap, self.sinks)


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
        starts_T: of each row the first row of its session that it sees, int64; None: each sees all before it.
        missing: sessions of which a row sees something else than itself and one piece of rows before it.
    """

    starts_T: torch.Tensor | None  # noqa: N815 - a shape
    missing: tuple[int, ...]


class PieceRows:
    """Of sessions that hold the rows of a layer in one piece; our kernels attend to them where they can.

    Args:
        sessions: with the rows that each keeps and those that it brings; room is made for them.
    """

    def __init__(self, sessions: Sequence[SequenceSlice[SessionKV]]) -> None:
        self._sessions = sessions
        self._lengths = [count for _, _, count in sessions]
        self._held: dict[int, Sequence[torch.Tensor]] = {}
        # a step's rules are few, and most layers ask by the same
        self._seen: dict[MaskRule | None, Seen] = {}
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
        copy_all(rooms, news)

    def held(self, index: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index not in self._held:
            kv, position, count = self._sessions[index]
            self._held[index] = kv.views(0, position + count)
        return self._held[index][2 * layer], self._held[index][2 * layer + 1]

    def attend(
        self, layer: int, query_HTd: torch.Tensor, rule: MaskRule | None, how: How
    ) -> tuple[torch.Tensor, Sequence[int]] | None:
        """Sessions of which a row sees more than one piece of what is before it are left out."""
        if self.table is None or how.expand is not None:
            return None
        seen = self.seen(rule)
        return self.table.attend(layer, query_HTd, seen.starts_T, how.rules), seen.missing

    def seen(self, rule: MaskRule | None) -> Seen:
        """What rows may see."""
        if rule not in self._seen:
            self._seen[rule] = Seen(None, ()) if rule is None else self._found_seen(rule)
        return self._seen[rule]

    def _found_seen(self, rule: MaskRule) -> Seen:
        starts = [rule.starts(position, count) for _, position, count in self._sessions]
        missing = tuple(index for index, each in enumerate(starts) if each is None)
        known = [
            torch.zeros(n, dtype=torch.int64) if each is None else each
            for each, n in zip(starts, self._lengths, strict=True)
        ]
        starts_T = torch.cat(known)
        return Seen(starts_T if bool(starts_T.any()) else None, missing)
