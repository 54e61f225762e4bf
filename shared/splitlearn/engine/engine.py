"""An engine: one part, its sessions, and the device thread that runs them.

Shapes: T rows, D hidden size, V vocabulary.
"""

from dataclasses import dataclass

import torch

from splitlearn.cache import PartCache
from splitlearn.engine.device_thread import DeviceThread, Timing
from splitlearn.engine.positions import check_position
from splitlearn.errors import BadRows, PositionNotReached
from splitlearn.part import Part


@dataclass(frozen=True)
class Step:
    """What came out of one step: hidden states [T, D] or logits [V], and where the time went."""

    output: torch.Tensor
    timing: Timing


class EngineSession:
    """One user's KV cache in one engine. Owned by the caller of `Engine.open`; used from the device thread only."""

    def __init__(self, cache: PartCache, limit: int | None) -> None:
        self.cache = cache
        self.limit = limit
        self.reached = 0

    def __repr__(self) -> str:
        return f"<EngineSession {self.reached} rows, limit {self.limit}>"


class Engine:
    """Runs `part` for any number of sessions, one step at a time."""

    def __init__(self, part: Part, thread: DeviceThread) -> None:
        self.part = part
        self._thread = thread

    def open(self, max_length: int | None = None) -> EngineSession:
        """A session of at most `max_length` rows, and never more than the model's context."""
        limits = [n for n in (max_length, self.part.context_length) if n]
        return EngineSession(self.part.new_cache(), min(limits, default=None))

    async def step(self, session: EngineSession, position: int, rows: torch.Tensor) -> Step:
        """Keeps the session's first `position` rows, appends `rows` and runs them.

        Args:
            session: from `open`; refused rows leave it as it was, a failure while computing leaves `position` rows,
                or none where the part cannot truncate.
            position: where the rows begin.
            rows: token ids [T] (int64) if the part begins the model, else hidden states [T, D] in the part's
                dtype. No rows at all only truncates.

        Returns:
            The part's output for these rows; with no rows an empty [0, D].

        Raises:
            PositionNotReached, ContextExceeded, BadRows: see `splitlearn.errors`.
        """
        output, timing = await self._thread.run(self._run, session, position, rows)
        return Step(output, timing)

    def _run(self, session: EngineSession, position: int, rows: torch.Tensor) -> torch.Tensor:
        self._check(rows)
        check_position(position, rows.shape[0], session.reached, session.limit)
        self._go_back(session, position)
        if rows.shape[0] == 0:
            return torch.empty(0, self.part.hidden_size, dtype=self.part.dtype)
        try:
            output = self.part(rows.to(self.part.device), position, session.cache)
            session.reached = position + rows.shape[0]
        finally:
            if session.reached == position:
                # a failure midway: the first layers hold rows that the last ones lack
                self._go_back(session, position if self.part.can_truncate else 0)
        return torch.as_tensor(output).cpu()

    def _go_back(self, session: EngineSession, position: int) -> None:
        if position == 0:
            session.cache = self.part.new_cache()
        elif self.part.can_truncate:
            session.cache.truncate(position)
        elif position < session.reached:
            raise PositionNotReached(
                f"the session holds {session.reached} rows and cannot go back to {position}: layers of a "
                f"{self.part.config.model_type} keep one state for all rows; send everything again from 0"
            )
        session.reached = position

    def _check(self, rows: torch.Tensor) -> None:
        if self.part.spec.begin:
            return
        expected = (self.part.hidden_size,)
        if rows.ndim != 2 or tuple(rows.shape[1:]) != expected:
            raise BadRows(f"rows must have the shape [T, {self.part.hidden_size}], found {list(rows.shape)}")
        if rows.dtype != self.part.dtype:
            raise BadRows(f"rows must be {_name(self.part.dtype)}, as the fingerprint says; found {_name(rows.dtype)}")
        if not bool(torch.isfinite(rows).all()):
            bad = int((~torch.isfinite(rows)).any(dim=1).sum())
            raise BadRows(f"{bad} of {rows.shape[0]} rows hold NaN or infinity; nothing was computed")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
