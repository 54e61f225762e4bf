"""What a step does on the device thread. It knows neither the event loop nor who waits.

Shapes: T rows, D hidden size, V vocabulary.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.engine.row_checks import RowChecks
from splitlearn.engine.scheduler import Slice
from splitlearn.engine.session import Task
from splitlearn.kv.sequence_slice import SequenceSlice
from splitlearn.part import Part
from splitlearn.steps.runner import Span

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Work:
    """The rows of one task in one step. The device thread's from the step's beginning to its end, then the loop's.

    Attributes:
        task: only what never changes is read of it: rows, position, `then`.
        piece: which of its rows.
        kv: the session's store; another one may take its place.
        begins_with: as the session's; None once the rows were copied.
        reached: rows that the session holds if the step ends now.
        output: hidden states [T, D], or logits [V]; None before they are computed.
        made: what `then` made of it.
        error: why there is no output, or nothing made of it.
    """

    task: Task
    piece: Slice
    kv: Any
    begins_with: SequenceSlice[Any] | None
    reached: int
    output: torch.Tensor | None = None
    made: Any = None
    error: Exception | None = None

    @classmethod
    def of(cls, task: Task, piece: Slice) -> "Work":
        session = task.session
        return cls(task, piece, session.kv, session.begins_with, session.reached)

    @property
    def position(self) -> int:
        """Of its first row in the session."""
        return self.task.position + self.piece.start

    @property
    def rows(self) -> torch.Tensor:
        return self.task.rows[self.piece.start : self.piece.start + self.piece.count]

    @property
    def is_last(self) -> bool:
        """Whether the task is done with it."""
        return self.piece.start + self.piece.count == self.task.rows.shape[0]


class DeviceStep:
    """Runs the rows of several sessions; what fails for one of them is that one's alone."""

    def __init__(self, part: Part, runner: Any, checks: RowChecks) -> None:
        self._runner = runner
        self._is_end, self._can_truncate = part.spec.end, part.can_truncate
        self._checks = checks

    def run(self, works: Sequence[Work]) -> bool:
        """Fills in what came of them. False if rows had to be run again, so that its time says nothing."""
        for work in works:
            try:
                self._begin(work)
            except Exception as error:  # noqa: BLE001 - goes to the one whose rows they are
                work.error = error
        sound = [work for work in works if work.error is None]
        together = [sound] if self._runner.in_batches else [[work] for work in sound]
        n_failed = sum(not self._compute(some) for some in together)
        for work in sound:
            if work.output is not None and work.error is None and work.is_last and work.task.then is not None:
                try:
                    work.made = work.task.then(work.output)
                except Exception as error:  # noqa: BLE001 - goes to the one who asked for it
                    work.error, work.reached = error, self._fallen_back(work)
        return not n_failed

    def _begin(self, work: Work) -> None:
        """Before a task's first rows: takes back what it drops, or copies what it begins with."""
        if work.piece.start:
            return
        refusal = self._checks.refusal(work.task.rows)
        if refusal is not None:
            work.error = refusal
            return
        position = work.task.position
        if work.begins_with is not None and position:
            cached = work.begins_with
            work.kv = self._runner.begin_with(work.kv, cached.kv, min(cached.length, position))
        work.begins_with = None
        work.reached = self._fallen_back(work)
        work.kv = self._runner.go_back(work.kv, position)

    def _compute(self, works: Sequence[Work]) -> bool:
        """In one forward; if that fails, in two halves, and so on: what one session has brought fails for it alone, and
        what was too much at once may do in pieces. False if it failed.
        """
        if not works:
            return True
        try:
            outputs = self._runner.run([self._span(work) for work in works])
            for work, output in zip(works, outputs, strict=True):
                work.output = output.cpu()
        except Exception as error:  # noqa: BLE001 - goes to the one whose rows they are
            if len(works) == 1:
                works[0].error, works[0].reached = error, self._fallen_back(works[0])
                return False
            name = type(error).__name__
            log.warning("a step of %d sessions failed (%s); its halves are run by themselves", len(works), name)
        else:
            for work in works:
                work.reached = work.position + work.piece.count
            return True
        for work in works:
            # any of them may hold rows that the failed forward has put there
            work.kv = self._runner.go_back(work.kv, work.position)
        half = len(works) // 2
        for some in (works[:half], works[half:]):
            self._compute(some)
        return False

    def _span(self, work: Work) -> Span[Any]:
        return Span(work.kv, work.position, work.rows, not self._is_end or work.is_last)

    def _fallen_back(self, work: Work) -> int:
        """What the session holds if its task fails: midway the first layers have rows that the last ones lack."""
        return work.task.position if self._can_truncate else 0
