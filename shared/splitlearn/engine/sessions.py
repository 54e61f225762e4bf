"""The sessions of one engine and their pending requests, and what becomes of them. On the event loop's thread alone.

Shapes: T rows, D hidden size, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from splitlearn.engine.arrivals import ArrivalEstimator
from splitlearn.engine.device_step import WorkItem
from splitlearn.engine.device_thread import Timing
from splitlearn.engine.limits import Limits
from splitlearn.engine.observer import EngineObserver
from splitlearn.engine.owners import Owner
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.prefix_cache import PrefixCache
from splitlearn.engine.queue_forecast import Newcomer, QueueForecast
from splitlearn.engine.request import PendingRequest, StepResult
from splitlearn.engine.scheduler import ScheduledRequest, ScheduledSlice, Scheduler
from splitlearn.engine.session import EngineSession
from splitlearn.errors import EngineFull, PositionNotReached, SessionClosed
from splitlearn.runner.interface import Runner


class Sessions:
    """Keeps sessions, requests, scheduler, pages, and keys and values consistent with each other.

    A session's `kv` is the device thread's while a step runs with it (`in_step`): nothing here touches it then, and a
    session that is closed during a step is removed after the step.

    Args:
        runner: makes keys and values, and releases them.
        clock: seconds, never going back.

    Attributes:
        requests: by the number of their session; the scheduler has a `ScheduledRequest` for each.
    """

    def __init__(
        self,
        runner: Runner[Any],
        limits: Limits,
        arrivals: ArrivalEstimator,
        observer: EngineObserver,
        clock: Callable[[], float],
    ) -> None:
        self._runner, self._arrivals, self._observer, self._clock = runner, arrivals, observer, clock
        self._is_end, self._can_truncate = runner.ends_model, runner.can_truncate
        budget = runner.page_budget(limits.page_size)
        self.pages = PageAccounting(budget.n_pages, budget.page_size)
        max_prefixes = limits.max_cached_prefixes if runner.can_share_rows else 0
        self.prefix_cache = PrefixCache(max_prefixes, limits.block_size, self.pages, runner.release)
        self.scheduler = Scheduler(limits, self.pages, self.prefix_cache.evict, self._idle_seconds, self._on_admitted)
        self._queue = QueueForecast(limits, self.scheduler.admission)
        self.requests: dict[int, PendingRequest] = {}
        # the scheduler knows these, and the sessions that were closed during the step that runs
        self._open: dict[int, EngineSession] = {}
        # of all sessions that were not removed
        self._numbers: set[int] = set()
        self._last_number = 0

    def open(
        self,
        max_length: int,
        block_hashes: Sequence[bytes],
        owner: Owner,
        opened_at: float | None,
        *,
        refused_elsewhere: bool,
    ) -> EngineSession:
        """A session of at most `max_length` rows, with the cached rows of its blocks if there are pages for them.

        Raises:
            EngineFull: it would wait too long; nothing has changed.
        """
        number, now = self._new_number(opened_at), self._clock()
        newcomer = Newcomer(number, max_length, owner, self._queue.was_told(owner, now))
        why = self._queue.why_refused(newcomer, now)
        if why is not None:
            raise self._full(newcomer, why, is_counted=not refused_elsewhere)
        self._numbers.add(number)
        session = EngineSession(number, max_length, self._runner.new_kv(max_length), now, owner=owner)
        self._open[number] = session
        cached = self.prefix_cache.find(block_hashes, max_length)
        is_admitted = cached is not None and self.scheduler.admit(number, cached.length, max_length, owner)
        if cached is not None and is_admitted:
            session.cached_prefix, session.reached = cached, cached.length
            self._observer.reused(session.reached)
        else:
            self._queue.announced(newcomer, now)
        return session

    def _new_number(self, opened_at: float | None) -> int:
        """Microseconds since the epoch, so that all engines number the sessions that they share in the same order."""
        if opened_at is None:
            # a clock that was set back does not make a later session older
            number = self._last_number = max(int(time.time() * 1e6), self._last_number + 1)
        elif 0.0 <= opened_at < math.inf:
            number = int(opened_at * 1e6)
        else:
            raise ValueError(f"a session cannot have been opened at {opened_at}")
        while number in self._numbers:
            number += 1
        return number

    def check_open(self, session: EngineSession) -> None:
        """Raises SessionClosed if it is not."""
        if self._open.get(session.number) is not session:
            raise SessionClosed(f"{session} was closed, or its rows were cached for others: open another one")

    def close_and_cache(self, session: EngineSession, block_hashes: Sequence[bytes]) -> None:
        """Closes an open session, and caches its first rows unless it has a request or a step runs with it."""
        is_idle = session.number not in self.requests and not session.in_step and session.cached_prefix is None
        blocks = self.prefix_cache.cacheable_blocks(block_hashes, session.reached) if is_idle else ()
        if blocks:
            self.prefix_cache.insert(session.number, blocks, session.kv)
            session.kv = None
        self.close(session)

    def close(self, session: EngineSession) -> None:
        """Does nothing if it is closed."""
        if self._open.get(session.number) is not session:
            return
        del self._open[session.number]
        request = self.requests.get(session.number)
        if request is not None:
            self.finish(request, SessionClosed(f"{session} was closed while its rows were waited for"))
        # the device thread has its keys and values during a step; `complete` removes it after that
        if not session.in_step:
            self._remove(session)

    def expire(self, before: float) -> None:
        """Takes pages and rows from sessions that were last used before that time."""
        for session in list(self._open.values()):
            is_idle = session.number not in self.requests and not session.in_step
            # a session that was truncated to 0, or left while its first rows ran, has pages and no rows
            has_pages = session.reached or self.pages.held_by(session.number)
            if session.last_used < before and is_idle and has_pages:
                self._release_pages(session, was_idle=True)
                self._observer.expired()

    def submit(self, request: PendingRequest) -> None:
        """Adds the request of a session that has none.

        Raises:
            EngineFull: too many sessions wait, or this one would wait for too long; nothing has changed.
        """
        session = request.session
        number = session.number
        self._queue.came(number)
        refused = self.scheduler.submit(
            ScheduledRequest(number, request.position, request.n_rows, session.max_length, session.owner)
        )
        if refused == number:
            raise self.full(session, f"{self.scheduler.n_waiting} sessions wait for {self.scheduler.shortage} already")
        if refused is not None:
            why = f"{self.scheduler.n_waiting} sessions wait for {self.scheduler.shortage}"
            self.finish(self.requests[refused], self.full(self._open[refused], why))
        self._check_wait(session)
        self.requests[number] = request
        if request.is_decoding:
            self._arrivals.on_received(number, session.last_used)
        else:
            # the prompt again, after an interruption: other prompts would wait for a token that needs this one first
            self._arrivals.forget(number)

    def full(self, session: EngineSession, why: str) -> EngineFull:
        """The error for a session that is not to wait any longer; it leaves the queue."""
        self.scheduler.drop(session.number)
        return self._full(_newcomer(session), why)

    def _full(self, session: Newcomer, why: str, *, is_counted: bool = True) -> EngineFull:
        seconds = self._queue.retry_after(session, self._clock(), is_counted=is_counted)
        return EngineFull(f"{why}; try again in {seconds:.0f} s", seconds)

    def _check_wait(self, session: EngineSession) -> None:
        """Raises EngineFull if a session that was never admitted is expected to wait for longer than it may."""
        scheduler, number = self.scheduler, session.number
        is_new = scheduler.is_waiting(number) and not scheduler.was_admitted(number)
        why = self._queue.why_not_wait(_newcomer(session), self._clock()) if is_new else None
        if why is not None:
            raise self.full(session, why)

    def work_items(self, slices: Sequence[ScheduledSlice]) -> list[WorkItem]:
        """What the device thread needs for these slices."""
        return [WorkItem.of(self.requests[slice_.session], slice_) for slice_ in slices]

    def begin_step(self, items: Sequence[WorkItem]) -> None:
        """From here to `complete`, the items and the keys and values in them are the device thread's."""
        for item in items:
            item.request.session.in_step = True

    def complete(self, item: WorkItem, timing: Timing, submitted: float) -> None:
        """Takes a session's keys and values back after a step, and finishes its request if all of its rows were run.

        Args:
            submitted: when the step was given to the device thread, on the performance counter.
        """
        request, session = item.request, item.request.session
        session.in_step, session.kv, session.cached_prefix = False, item.kv, item.cached_prefix
        # an error refers to the frames that it passed, and they to this item
        error, item.error, item.kv = item.error, None, None
        if self._open.get(session.number) is not session:
            self._remove(session)
            return
        if self.requests.get(session.number) is not request:
            # its caller has left during the step, and the next request may wait already
            session.reached = min(session.reached, item.reached)
            return
        session.reached, session.last_used = item.reached, self._clock()
        if error is not None:
            self.finish(request, error)
            if isinstance(error, PositionNotReached):
                self._release_pages(session, was_idle=False)
            return
        request.began = request.began or submitted + timing.queue_seconds
        request.compute_seconds += timing.compute_seconds
        request.outputs.append(torch.as_tensor(item.output))
        is_finished = self.scheduler.advance(session.number, item.slice.length)
        if is_finished:
            outputs = request.outputs
            output = outputs[-1] if self._is_end or len(outputs) == 1 else torch.cat(outputs)
            timing = Timing(request.began - request.submitted, request.compute_seconds)
            self.finish(request, StepResult(output, timing, item.postprocessed))

    def finish(self, request: PendingRequest, outcome: StepResult | Exception) -> None:
        """Ends a request; the only way in which one ends, except `abort`."""
        was_pending = self._detach(request)
        if was_pending and not isinstance(outcome, StepResult):
            self._arrivals.forget(request.session.number)
        elif was_pending and request.is_decoding:
            self._arrivals.on_sent(request.session.number, self._clock())
        request.finish(outcome)

    def abort(self, request: PendingRequest) -> None:
        """Its caller has left."""
        was_pending = self._detach(request)
        if was_pending:
            self._arrivals.forget(request.session.number)
            self._truncate(request)

    def fail_all(self, error: Exception) -> None:
        """Ends all requests with this error, because nothing runs their rows any more."""
        for request in list(self.requests.values()):
            self._truncate(request)
            self.finish(request, error)

    def preempt(self, number: int) -> None:
        """Takes the rows of a session whose pages the scheduler has freed."""
        self._observer.preempted()
        self._queue.times.preempted(number)
        session, request = self._open[number], self.requests.get(number)
        self._reset(session)
        if request is None:
            return
        if request.position == 0:
            # the request has all rows of the session: it runs again when there are pages
            self.scheduler.restart(number)
            request.outputs.clear()
        else:
            self.finish(request, session.lost_rows())

    def _detach(self, request: PendingRequest) -> bool:
        """Removes a request. False if it was removed before."""
        number = request.session.number
        if self.requests.get(number) is not request:
            return False
        del self.requests[number]
        self.scheduler.drop(number)
        return True

    def _truncate(self, request: PendingRequest) -> None:
        """Drops the rows of a request that has begun: in between, the first layers have more of them than the last."""
        if request.session.in_step or request.outputs:
            request.session.reached = request.position if self._can_truncate else 0

    def _release_pages(self, session: EngineSession, *, was_idle: bool) -> None:
        """Takes pages and rows from a session without a request; it stays open."""
        self.scheduler.release_pages(session.number, was_idle=was_idle)
        self._queue.times.preempted(session.number)
        self._reset(session)

    def _reset(self, session: EngineSession) -> None:
        """The session holds no rows any more."""
        self._runner.release(session.kv)
        session.kv = self._runner.new_kv(session.max_length)
        session.cached_prefix = None
        session.reached = 0
        session.lost_pages = True

    def _remove(self, session: EngineSession) -> None:
        """Frees what a closed session holds. No step may run with it."""
        if session.kv is not None:
            self._runner.release(session.kv)
        session.kv = session.cached_prefix = None
        self.scheduler.remove(session.number)
        self._queue.came(session.number)
        self._numbers.discard(session.number)
        self._queue.times.ended(session.number, self._clock())
        self._arrivals.forget(session.number)

    def _idle_seconds(self, number: int) -> float:
        session = self._open.get(number)
        # one that was closed during a step is removed after it
        return 0.0 if session is None else self._clock() - session.last_used

    def _on_admitted(self, number: int) -> None:
        self._queue.times.admitted(number, self._clock())


def _newcomer(session: EngineSession) -> Newcomer:
    return Newcomer(session.number, session.max_length, session.owner)
