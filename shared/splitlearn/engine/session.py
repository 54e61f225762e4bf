"""A session of an engine: one user's rows."""

from dataclasses import dataclass
from typing import Any

from splitlearn.engine.owners import Owner
from splitlearn.errors import PositionNotReached
from splitlearn.runner.interface import SequenceSlice


@dataclass(eq=False)
class EngineSession:
    """One user's rows in one engine. Owned by the caller of `Engine.open`, who closes it.

    Written on the event loop's thread alone; a step carries its `kv` to the device thread and back.

    Attributes:
        number: a session that was opened later has a greater one, in every engine.
        max_length: rows that it may hold.
        kv: the keys and values of its rows; the device thread's while a step runs with it, None when the session has
            ended.
        last_used: the time of its last use, on the engine's clock.
        reached: rows that it holds.
        lost_pages: whether its pages were taken from it at some time.
        cached_prefix: cached rows that are still to be copied into it; None if there are none.
        in_step: whether a step runs with it.
        owner: whose session it is; see `splitlearn.engine.owners`.
    """

    number: int
    max_length: int
    kv: Any
    last_used: float
    reached: int = 0
    lost_pages: bool = False
    cached_prefix: SequenceSlice[Any] | None = None
    in_step: bool = False
    owner: Owner = ()

    def __repr__(self) -> str:
        return f"<EngineSession {self.number}: {self.reached}/{self.max_length} rows>"

    def lost_rows(self) -> PositionNotReached:
        """The error for a caller that expects the session to hold its rows still."""
        return PositionNotReached(
            "the session's pages were given to others while memory was short or it was idle; "
            f"it holds {self.reached} rows: send everything again from 0"
        )
