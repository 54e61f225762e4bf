"""A session of an engine, and what is to be done for it. T rows, D hidden size, V vocabulary."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from splitlearn.engine.device_thread import Timing
from splitlearn.engine.scheduler import DECODING_ROWS
from splitlearn.errors import PositionNotReached
from splitlearn.kv.sequence_slice import SequenceSlice


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
        kv: the store of its rows; the device thread's while a step runs with it, None when the session has ended.
        used: when it was used last, on the monotonic clock.
        reached: rows that it holds.
        lost_pages: whether they were taken from it at some time.
        begins_with: a kept session whose first rows are still to be copied into this one, and how many.
        in_step: whether a step runs with it.
    """

    number: int
    limit: int
    kv: Any
    used: float
    reached: int = 0
    lost_pages: bool = False
    begins_with: SequenceSlice[Any] | None = None
    in_step: bool = False

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
    is_decoding: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_decoding = self.rows.shape[0] <= DECODING_ROWS

    def finish(self, outcome: Step | Exception) -> None:
        """Tells who waits, if anybody still does: a caller may leave at any time, and its future knows before all.

        The only place that gives a task its result.
        """
        if self.result.done():
            return
        if isinstance(outcome, Step):
            self.result.set_result(outcome)
        elif isinstance(outcome, StopIteration):
            # no future takes it
            self.result.set_exception(RuntimeError(f"the step raised {outcome!r}"))
        else:
            self.result.set_exception(outcome)
