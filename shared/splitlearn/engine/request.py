"""The rows of one frame while they wait and run, and what comes of them. T rows, D hidden size, V vocabulary."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from splitlearn.engine.device_thread import Timing
from splitlearn.engine.scheduler import MAX_DECODE_ROWS
from splitlearn.engine.session import EngineSession
from splitlearn.runner.interface import Wanted


@dataclass(frozen=True)
class RowReader:
    """Reads what a part that ends the model gives for all rows of a request.

    Attributes:
        wanted: "all" for the logits [T, V] of the rows, "hidden" for the hidden states [T, D] before the head.
        read: called on the device thread with the position of some rows and with these, until all rows have been; rows
            that run again come again. An error that it raises fails its own request alone.
    """

    wanted: Wanted
    read: Callable[[int, torch.Tensor], None]


@dataclass(frozen=True)
class StepResult:
    """The output for one frame.

    Attributes:
        output: hidden states [T, D]; of a part that ends the model the logits [V] of the last row, or its hidden state
            [D] where those were read.
        timing: where the time went.
        postprocessed: what `postprocess` returned; None without one.
    """

    output: torch.Tensor
    timing: Timing
    postprocessed: Any = None


@dataclass(eq=False)
class PendingRequest:
    """The rows of one frame that a caller of `Engine.step` waits for; the scheduler knows them as `ScheduledRequest`.

    Owned by the event loop's thread. The device thread reads what never changes: rows, position, `reader`,
    `postprocess` and `n_likeliest`.

    Attributes:
        session: whose rows they are.
        position: position of the first row in the session.
        rows: token ids [T] or hidden states [T, D].
        result: what the caller waits for.
        submitted: when it was submitted, on the performance counter.
        postprocess: called with the output on the device thread; None for nothing.
        reader: reads the output of all rows; None if only that of the last one is wanted.
        n_likeliest: as in `SequenceInput`.
        began: when its first rows began to run; None before that.
        compute_seconds: how long its rows ran.
        outputs: of the slices that have been run.
        queue_timer: ends when it has waited too long for admission; None without such a bound.
    """

    session: EngineSession
    position: int
    rows: torch.Tensor
    result: "asyncio.Future[StepResult]"
    submitted: float
    postprocess: Callable[[torch.Tensor], Any] | None = None
    reader: RowReader | None = None
    n_likeliest: int | None = None
    began: float | None = None
    compute_seconds: float = 0.0
    outputs: list[torch.Tensor] = field(default_factory=list)
    queue_timer: asyncio.TimerHandle | None = None
    is_decoding: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_decoding = self.n_rows <= MAX_DECODE_ROWS

    def __repr__(self) -> str:
        return f"<PendingRequest of {self.session}: {self.n_rows} rows at {self.position}>"

    @property
    def n_rows(self) -> int:
        return int(self.rows.shape[0])

    def finish(self, outcome: StepResult | Exception) -> None:
        """Sets the result, unless the caller has left: a caller may leave at any time, and its future knows first.

        The only place that sets a request's result.
        """
        if self.result.done():
            return
        if isinstance(outcome, StepResult):
            self.result.set_result(outcome)
        elif isinstance(outcome, StopIteration):
            # a future refuses this type
            self.result.set_exception(RuntimeError(f"the step raised {outcome!r}"))
        else:
            self.result.set_exception(outcome)
