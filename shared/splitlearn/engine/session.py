"""A session of an engine, and what is to be done for it. T rows, D hidden size, V vocabulary."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from splitlearn.engine.device_thread import Timing
from splitlearn.engine.scheduler import DECODING_ROWS
from splitlearn.errors import PositionNotReached


@dataclass(frozen=True)
class Step:
    """What came of one step: hidden states [T, D] or logits [V], where the time went, and what `then` made of it."""

    output: torch.Tensor
    timing: Timing
    made: Any = None


@dataclass(eq=False)
class EngineSession:
    """One user's rows in one engine. Owned by the caller of `Engine.open`, who closes it.

    Attributes:
        number: later sessions have greater ones.
        limit: the most rows that it may hold.
        used: when it was used last, on the monotonic clock.
        reached: rows that it holds.
        lost_pages: whether they were taken from it at some time.
        begins_with: a kept session whose first rows are still to be copied into this one, and how many.
    """

    number: int
    limit: int
    kv: Any
    used: float
    reached: int = 0
    lost_pages: bool = False
    begins_with: tuple[Any, int] | None = None

    def __repr__(self) -> str:
        return f"<EngineSession {self.number}: {self.reached} rows, limit {self.limit}>"

    def lost(self) -> PositionNotReached:
        """What to say to its owner, who thinks that it holds more."""
        return PositionNotReached(
            "the session's pages were given to others while memory was short or it was idle; "
            f"it holds {self.reached} rows: send everything again from 0"
        )


@dataclass(eq=False)
class Task:
    """The rows of a job, what came of them so far, and who waits for it. `then` makes `made` of the last output.

    `patience` ends when they have waited too long for room.
    """

    session: EngineSession
    position: int
    rows: torch.Tensor
    result: "asyncio.Future[Step]"
    submitted: float
    then: Callable[[torch.Tensor], Any] | None = None
    made: Any = None
    began: float | None = None
    compute_seconds: float = 0.0
    outputs: list[torch.Tensor] = field(default_factory=list)
    patience: asyncio.TimerHandle | None = None

    @property
    def is_decoding(self) -> bool:
        return self.rows.shape[0] <= DECODING_ROWS
