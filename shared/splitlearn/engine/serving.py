"""Step after step on the event loop, as long as rows wait that can be run."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from splitlearn.engine.batching_policy import BatchingPolicy, EngineState
from splitlearn.engine.device_step import DeviceStep, Work
from splitlearn.engine.device_thread import DeviceThread, Timing
from splitlearn.engine.observer import EngineObserver
from splitlearn.engine.scheduler import Slice
from splitlearn.engine.sessions import Sessions

log = logging.getLogger(__name__)


class Serving:
    """Waits for sessions, lets the scheduler decide, and gives the device thread what it decided.

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
        # set while a step waits for more sessions; done when one comes or goes
        self._arrival: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        # of the loop that the task belongs to
        self._loop_thread = 0

    def check_thread(self) -> None:
        """Raises RuntimeError on another thread than that of the loop that serves now."""
        if self._task is not None and self._loop_thread != threading.get_ident():
            raise RuntimeError("an engine is used on the thread of its event loop; others may read some numbers of it")

    def state(self, waiting_since: float | None = None) -> EngineState:
        """What is known now; see `EngineState`."""
        now, tasks = self._clock(), self._sessions.tasks
        n_decoding = sum(task.is_decoding for task in tasks.values())
        due = self._thread.next_due(now)
        return EngineState(now, n_decoding, len(tasks) - n_decoding, waiting_since, due, self._thread.shares_cores)

    def go_on(self) -> None:
        """To be called when a session has come or gone."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        # callers who have left take their tasks away themselves
        if self._task is None and not all(task.result.done() for task in self._sessions.tasks.values()):
            self._loop_thread = threading.get_ident()
            self._task = asyncio.create_task(self._serve())
            self._task.add_done_callback(self._served)

    async def _serve(self) -> None:
        """Until nothing is left that could be run."""
        try:
            while self._sessions.tasks and await self._one_step():
                pass
        except Exception as error:
            log.exception("the engine failed, and tells %d sessions that wait", len(self._sessions.tasks))
            self._sessions.fail_all(error)
        finally:
            # before anybody else's turn, who would otherwise think that this goes on
            self._task = None
        if not self._sessions.tasks and (complaint := self._sessions.pages.check_consistency()):
            log.error("the pages do not add up: %s", complaint)

    def _served(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            # it may never have begun; those who still wait were not meant
            if self._task is task:
                self._task = None
            self.go_on()

    async def _one_step(self) -> bool:
        """False if there is no room for any of those who wait."""
        # who comes while others have the thread can still be part of the step
        await self._thread.free()
        decision = self._sessions.scheduler.decide(await self._gather())
        for number in decision.preempted:
            self._sessions.preempt(number)
        if decision.slices:
            await self._take(decision.slices)
        # pages that were taken may be enough for somebody who waits
        return bool(decision.slices or decision.preempted)

    async def _gather(self) -> int:
        """Waits for those who are worth it; the rows of prompts for the step."""
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

    async def _take(self, slices: Sequence[Slice]) -> None:
        """One step. Nothing calls it off once the device thread has it: only when it is over are its stores ours."""
        works = self._sessions.works(slices)
        asked = time.perf_counter()
        running = self._thread.run(self._step.run, works)
        self._sessions.hand_over(works)
        cancelled = False
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                cancelled = True
        self._take_back(works, running, asked)
        if cancelled:
            raise asyncio.CancelledError

    def _take_back(self, works: Sequence[Work], ran: "asyncio.Future[tuple[bool, Timing]]", asked: float) -> None:
        """After a step, whatever came of it."""
        failure = _failure(ran)
        is_smooth, timing = ran.result() if failure is None else (False, Timing(0.0, 0.0))
        for work in works:
            work.error = work.error or failure
            try:
                self._sessions.settle(work, timing, asked)
            except Exception as error:  # noqa: BLE001 - goes to the one whose rows they are
                self._sessions.end(work.task, error)
        if is_smooth:
            n_prefill_rows = sum(work.piece.count for work in works if not work.task.is_decoding)
            n_decoding = sum(work.task.is_decoding for work in works)
            self._policy.step_cost.learn(n_decoding, n_prefill_rows, timing.compute_seconds)
        if failure is None:
            self._observer.step_done(len(works), sum(work.piece.count for work in works), timing.compute_seconds)


def _failure(ran: "asyncio.Future[Any]") -> Exception | None:
    """Why a step came to nothing as a whole."""
    if ran.cancelled():
        return RuntimeError("the device thread was closed before these rows were run")
    error = ran.exception()
    return error if error is None or isinstance(error, Exception) else RuntimeError(f"the device thread: {error!r}")
