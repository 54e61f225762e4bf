"""The loop that runs step after step on the event loop, as long as there are rows that can run."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

from splitlearn.engine.batching_policy import BatchingPolicy, EngineState
from splitlearn.engine.device_step import DeviceStep, WorkItem
from splitlearn.engine.device_thread import DeviceThread, Timing
from splitlearn.engine.giving_way import AWAY_SECONDS
from splitlearn.engine.observer import EngineObserver
from splitlearn.engine.scheduler import ScheduledSlice
from splitlearn.engine.sessions import Sessions

log = logging.getLogger(__name__)


class Serving:
    """Waits for requests, lets the scheduler decide, and gives the device thread what it decided.

    On the event loop's thread; only `DeviceStep.run` is called on the device thread.

    Args:
        clock: seconds, never going back.
    """

    def __init__(
        self,
        sessions: Sessions,
        thread: DeviceThread,
        step: DeviceStep,
        policy: BatchingPolicy,
        observer: EngineObserver,
        clock: Callable[[], float],
    ) -> None:
        self._sessions, self._thread, self._step, self._policy = sessions, thread, step, policy
        self._observer, self._clock = observer, clock
        # set while a step waits for more sessions; done when a request comes or goes
        self._arrival: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        # when the running step is late, by the clock; None while none runs
        self._step_deadline: float | None = None
        # looks again whether sessions that do nothing may be preempted for those that wait
        self._retry: asyncio.TimerHandle | None = None
        # the thread of the event loop that the task runs on
        self._loop_thread = 0

    def check_thread(self) -> None:
        """Raises RuntimeError on any other thread than that of the event loop that serves now."""
        if self._task is not None and self._loop_thread != threading.get_ident():
            raise RuntimeError("an engine is used on the thread of its event loop; others may read some numbers of it")

    def state(self, waiting_since: float | None = None) -> EngineState:
        """What the batching policy needs to know now."""
        # those that wait for admission take no part in a step, and must not make it longer
        now, ready = self._clock(), self._sessions.scheduler.ready
        n_decoding = sum(request.is_decoding for request in ready)
        due = self._thread.next_due(now)
        return EngineState(now, n_decoding, len(ready) - n_decoding, waiting_since, due, self._thread.shares_cores)

    def is_stepping_in_time(self) -> bool:
        """Whether a step runs that has not taken much longer than such steps took before."""
        return self._step_deadline is not None and self._clock() < self._step_deadline

    def wake(self) -> None:
        """Must be called when a request has come or gone, or pages may have become free."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        # callers that have left abort their requests themselves
        if self._task is None and not all(request.result.done() for request in self._sessions.requests.values()):
            self._loop_thread = threading.get_ident()
            # in no caller's context: the task runs for all, and its log lines must not name one request
            self._task = asyncio.create_task(self._run(), context=Context())
            self._task.add_done_callback(self._on_loop_done)

    async def _run(self) -> None:
        """Until there are no rows that could run."""
        if self._retry is not None:
            self._retry.cancel()
        try:
            made_progress = True
            while self._sessions.requests and made_progress:
                made_progress = await self._run_step()
        except Exception as error:
            log.exception("the engine failed, and tells %d sessions that wait", len(self._sessions.requests))
            self._sessions.fail_all(error)
        finally:
            # before any other callback runs, which would otherwise think that this loop goes on
            self._task = None
        if self._sessions.requests:
            self._retry = asyncio.get_running_loop().call_later(AWAY_SECONDS, self.wake)
        else:
            inconsistency = self._sessions.pages.check_consistency()
            if inconsistency is not None:
                log.error("the pages do not add up: %s", inconsistency)

    def _on_loop_done(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            # a task that is cancelled before it begins runs no `finally`; the requests were not meant
            if self._task is task:
                self._task = None
            self.wake()

    async def _run_step(self) -> bool:
        """False if no waiting session can be admitted, and no other has rows to run."""
        # requests that arrive while the thread works for others can still join the step
        await self._thread.drain()
        prefill_budget = await self._wait_for_requests()
        decision = self._sessions.scheduler.schedule(prefill_budget)
        for number in decision.preempted:
            self._sessions.preempt(number)
        if decision.slices:
            await self._run_batch(decision.slices)
        # the pages of a preempted session may be enough for one that waits
        return bool(decision.slices or decision.preempted)

    async def _wait_for_requests(self) -> int:
        """Waits as long as the policy says; returns the step's budget for rows of prompts."""
        waiting_since = None
        while True:
            state = self.state(waiting_since)
            decision = self._policy.decide(state)
            if decision.wait <= 0:
                return decision.prefill_budget
            waiting_since = waiting_since or (state.now if state.n_decoding else None)
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait({self._arrival}, timeout=decision.wait)
            finally:
                self._arrival = None

    async def _run_batch(self, slices: Sequence[ScheduledSlice]) -> None:
        """One step. The device thread owns the keys and values until it is over, so cancelling waits for its end."""
        items = self._sessions.work_items(slices)
        submitted = time.perf_counter()
        self._step_deadline = self._clock() + self._policy.step_cost.deadline_seconds(_prefill_rows(items))
        running = self._thread.run(self._step.run, items)
        self._sessions.begin_step(items)
        cancelled = False
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                cancelled = True
        self._step_deadline = None
        self._complete(items, running, submitted)
        if cancelled:
            raise asyncio.CancelledError

    def _complete(
        self, items: Sequence[WorkItem], ran: "asyncio.Future[tuple[bool, Timing]]", submitted: float
    ) -> None:
        """After a step, whether it succeeded or failed."""
        failure = _failure(ran)
        succeeded, timing = ran.result() if failure is None else (False, Timing(0.0, 0.0))
        for item in items:
            item.error = item.error or failure
            try:
                self._sessions.complete(item, timing, submitted)
            except Exception as error:  # noqa: BLE001 - goes to the caller whose rows they are
                self._sessions.finish(item.request, error)
        if succeeded:
            n_decoding = sum(item.request.is_decoding for item in items)
            self._policy.step_cost.learn(n_decoding, _prefill_rows(items), timing.compute_seconds)
        if failure is None:
            self._observer.step_done(len(items), sum(item.slice.length for item in items), timing.compute_seconds)


def _prefill_rows(items: Sequence[WorkItem]) -> int:
    return sum(item.slice.length for item in items if not item.request.is_decoding)


def _failure(ran: "asyncio.Future[Any]") -> Exception | None:
    """The error of a step that failed as a whole; None if it did not."""
    if ran.cancelled():
        return RuntimeError("the device thread was closed before these rows were run")
    error = ran.exception()
    return error if error is None or isinstance(error, Exception) else RuntimeError(f"the device thread: {error!r}")
