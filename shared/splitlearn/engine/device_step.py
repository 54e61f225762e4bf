"""What a step does on the device thread. It knows neither the event loop nor the callers that wait.

Shapes: T rows, D hidden size, V vocabulary.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.engine.request import PendingRequest
from splitlearn.engine.row_checks import RowChecks
from splitlearn.engine.scheduler import ScheduledSlice
from splitlearn.runner.interface import Runner, SequenceInput, SequenceSlice, Wanted

log = logging.getLogger(__name__)


@dataclass(eq=False)
class WorkItem:
    """One request's rows in one step. The device thread's while the step runs, before and after that the loop's.

    Attributes:
        request: only what never changes is read on the device thread: rows, position, `reader`, `postprocess`.
        slice: which of its rows.
        kv: the session's keys and values; the step may replace them by others.
        cached_prefix: as the session's; None once the rows were copied.
        reached: rows that the session holds if the step ends now.
        output: hidden states [T, D] or [D], or logits [V]; None before they are computed.
        postprocessed: what `postprocess` returned.
        error: why there is no output, or nothing that `postprocess` returned.
    """

    request: PendingRequest
    slice: ScheduledSlice
    kv: Any
    cached_prefix: SequenceSlice[Any] | None
    reached: int
    output: torch.Tensor | None = None
    postprocessed: Any = None
    error: Exception | None = None

    @classmethod
    def of(cls, request: PendingRequest, slice_: ScheduledSlice) -> "WorkItem":
        session = request.session
        return cls(request, slice_, session.kv, session.cached_prefix, session.reached)

    @property
    def position(self) -> int:
        """Position of its first row in the session."""
        return self.request.position + self.slice.offset

    @property
    def rows(self) -> torch.Tensor:
        return self.request.rows[self.slice.offset : self.slice.offset + self.slice.length]

    @property
    def is_first(self) -> bool:
        """Whether the request begins with it."""
        return self.slice.offset == 0

    @property
    def is_last(self) -> bool:
        """Whether the request is finished with it."""
        return self.slice.offset + self.slice.length == self.request.n_rows


class DeviceStep:
    """Runs rows of several sessions; an error of one session fails that session alone.

    On the device thread. It writes to the items and to their keys and values, and to no session.
    """

    def __init__(self, runner: Runner[Any], checks: RowChecks) -> None:
        self._runner = runner
        self._can_truncate = runner.can_truncate
        self._checks = checks

    def run(self, items: Sequence[WorkItem]) -> bool:
        """Checks, truncates, runs and postprocesses; each item then has its output or its error.

        Returns:
            False if rows had to be run again, so that the step's time says nothing.
        """
        for item in items:
            self._prepare(item)
        sound = [item for item in items if item.error is None]
        batches = [sound] if self._runner.is_batched else [[item] for item in sound]
        succeeded = [self._compute(batch) for batch in batches]
        for item in sound:
            self._read(item)
            self._postprocess(item)
        return all(succeeded)

    def _prepare(self, item: WorkItem) -> None:
        """Before a request's first rows: checks them, then truncates the session to where they begin."""
        if not item.is_first:
            return
        try:
            item.error = self._checks.refusal(item.request.rows)
            if item.error is None:
                self._truncate(item)
        except Exception as error:  # noqa: BLE001 - goes to the caller whose rows they are
            item.error = error

    def _truncate(self, item: WorkItem) -> None:
        """Drops the rows from the request's position on; copies the cached rows before it, if they were not yet."""
        position, prefix = item.request.position, item.cached_prefix
        if prefix is not None and position:
            item.kv = self._runner.copy_prefix(item.kv, prefix.kv, min(prefix.length, position))
        item.cached_prefix = None
        item.reached = self._reached_after_failure(item)
        item.kv = self._runner.truncate(item.kv, position)

    def _compute(self, items: Sequence[WorkItem]) -> bool:
        """Runs the items in one forward; if that fails, in two halves, and so on.

        So an error that one session causes fails for it alone, and a step that needs too much memory at once may
        succeed in smaller ones. False if the forward failed.
        """
        if not items:
            return True
        try:
            outputs = self._runner.run([self._input(item) for item in items])
            for item, output in zip(items, outputs, strict=True):
                item.output = output.cpu()
        except Exception as error:  # noqa: BLE001 - goes to the caller whose rows they are
            if len(items) == 1:
                items[0].error, items[0].reached = error, self._reached_after_failure(items[0])
                return False
            name = type(error).__name__
            log.warning("a step of %d sessions failed (%s); its halves are run by themselves", len(items), name)
        else:
            for item in items:
                item.reached = item.position + item.slice.length
            return True
        for item in items:
            # the failed forward may have added rows to any of them
            item.kv = self._runner.truncate(item.kv, item.position)
        half = len(items) // 2
        for some in (items[:half], items[half:]):
            self._compute(some)
        return False

    def _read(self, item: WorkItem) -> None:
        """Gives the output of all the item's rows to the request's reader; the last row's is then the item's."""
        reader = item.request.reader
        if reader is None or item.output is None or item.error is not None:
            return
        try:
            reader.read(item.position, item.output)
            # a copy, so that the others are freed
            item.output = item.output[-1].clone()
        except Exception as error:  # noqa: BLE001 - goes to the caller whose function it is
            item.error, item.reached = error, self._reached_after_failure(item)

    def _postprocess(self, item: WorkItem) -> None:
        """Calls the request's `postprocess` with the output of its last rows."""
        postprocess = item.request.postprocess
        if postprocess is None or item.output is None or item.error is not None or not item.is_last:
            return
        try:
            item.postprocessed = postprocess(item.output)
        except Exception as error:  # noqa: BLE001 - goes to the caller whose function it is
            item.error, item.reached = error, self._reached_after_failure(item)

    def _input(self, item: WorkItem) -> SequenceInput[Any]:
        reader = item.request.reader
        wanted: Wanted = reader.wanted if reader is not None else "last" if item.is_last else "none"
        return SequenceInput(item.kv, item.position, item.rows, wanted, item.request.n_likeliest)

    def _reached_after_failure(self, item: WorkItem) -> int:
        """Rows that the session holds if its request fails: its first layers may have rows that the last ones lack."""
        return item.request.position if self._can_truncate else 0
