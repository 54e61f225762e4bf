"""An engine: one part, its sessions, and the device thread that runs their rows step by step.

The scheduler decides what runs, on plain integers; the engine keeps tensors, futures and the clock.

Who may touch what, on which thread:

- **The event loop's thread** calls every method, and owns all that they change: sessions, tasks and their futures,
  scheduler, page accounting, prefix cache, policy.
- **The device thread** runs `DeviceStep.run` and nothing else of an engine. It owns the part and the runner, and from
  a step's beginning to its end the stores (`kv`) of the sessions in it, which are handed over in a `Work` and come
  back in it. It writes to no session. The loop gives a store up only while no step runs with it: a session that is
  closed in a step leaves when that is over.
- **Any thread** may read `n_waiting`, `n_cached_prefixes`, and `used` and `total` of `pages`: each is a number, or the
  length of a dictionary. And any thread may make an engine.

What one session brings with it (rows, `then`, a caller who leaves, a kept beginning that is gone) ends at most its own
step. What is nobody's own (the thread was closed, a fault in here) is told to all who wait, and the next are served.

Shapes: T rows, D hidden size, V vocabulary.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from splitlearn.engine.batching_policy import BatchingPolicy
from splitlearn.engine.device_step import DeviceStep
from splitlearn.engine.device_thread import DeviceThread, Timing
from splitlearn.engine.observer import EngineObserver, Guarded, NoObserver
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.positions import check_position
from splitlearn.engine.row_checks import RowChecks
from splitlearn.engine.scheduler import Limits
from splitlearn.engine.serving import Serving
from splitlearn.engine.session import EngineSession, Step, Task
from splitlearn.engine.sessions import Sessions
from splitlearn.engine.step_cost import TILE_ROWS, StepCostModel
from splitlearn.errors import EngineFull, PositionNotReached
from splitlearn.part import Part
from splitlearn.steps.runner import runner_for


class Engine:
    """Runs `part` for any number of sessions: rows of all of them in one step where the architecture allows it.

    Making an engine runs some small steps through the part, to learn what a row takes and what may stand in for its
    modules: do it where that may take a while.

    Args:
        part: filled; the engine takes it over.
        thread: runs the steps; several engines may share it.
        limits: how many rows, sessions and bytes.
        observer: is told of steps and sessions.
        runner: made of the part and the bytes for keys and values.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        part: Part,
        thread: DeviceThread,
        limits: Limits | None = None,
        observer: EngineObserver | None = None,
        runner: Callable[[Part, int | None], Any] = runner_for,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.part = part
        self.limits = limits or Limits()
        self._runner = runner(part, self.limits.kv_bytes)
        self._clock = clock
        self._checks = RowChecks(part)
        told = Guarded(observer or NoObserver())
        self._policy = BatchingPolicy(StepCostModel(self.limits.step_rows), self.runs_in_batches)
        thread.watch(self._policy.arrivals)
        self._sessions = Sessions(part, self._runner, self.limits, self._policy.arrivals, told, clock)
        step = DeviceStep(part, self._runner, self._checks)
        self._serving = Serving(self._sessions, thread, step, self._policy, told, clock)

    @property
    def runs_in_batches(self) -> bool:
        return bool(self._runner.in_batches)

    @property
    def row_bytes(self) -> int:
        """Memory for the keys and values of one row of one session."""
        return int(self._runner.row_bytes)

    @property
    def n_waiting(self) -> int:
        """Sessions with rows to run for which there is no room. From any thread."""
        return self._sessions.scheduler.n_waiting

    @property
    def prefill_chunk_size(self) -> int:
        """How many rows of a prompt to bring at a time: as the next step takes, few while others wait for tokens."""
        return max(TILE_ROWS, self._policy.prefill_budget(self._serving.state()))

    @property
    def n_cached_prefixes(self) -> int:
        """Closed sessions whose first rows are kept. From any thread."""
        return len(self._sessions.prefix_cache)

    @property
    def pages(self) -> PageAccounting:
        """Who holds which pages; to look at only."""
        return self._sessions.pages

    def open(self, max_length: int | None = None, prefix: Sequence[bytes] = ()) -> EngineSession:
        """A session of at most `max_length` rows, and never more than the model's context or all pages hold.

        Args:
            prefix: hashes of the blocks that it will begin with; see `splitlearn.engine.prefix_index`. The session's
                `reached` says how many rows it holds already.
        """
        self._serving.check_thread()
        limits = (max_length, self.part.context_length, self.pages.total * self.pages.page_size)
        return self._sessions.open(min(n for n in limits if n), prefix)

    def close_and_cache(self, session: EngineSession, block_hashes: Sequence[bytes]) -> None:
        """Closes a session and keeps the rows of its first blocks for later ones.

        Args:
            block_hashes: of its blocks, from the first on. Blocks that it does not hold in full are ignored, and all
                of them while rows of the session run or wait.

        Raises:
            SessionClosed: it was closed or kept before.
        """
        self._serving.check_thread()
        self._sessions.check_open(session)
        self._sessions.close_and_cache(session, block_hashes)
        self._serving.go_on()

    def close(self, session: EngineSession) -> None:
        """Gives back what the session holds; whoever waits for a step of it gets SessionClosed. Does so once."""
        self._serving.check_thread()
        self._sessions.close(session)
        self._serving.go_on()

    def expire(self, idle_seconds: float) -> None:
        """Takes the pages of sessions that were not used for so long; they stay open and may send everything again."""
        self._serving.check_thread()
        self._sessions.expire(self._clock() - idle_seconds)
        self._serving.go_on()

    async def step(
        self,
        session: EngineSession,
        position: int,
        rows: torch.Tensor,
        then: Callable[[torch.Tensor], Any] | None = None,
    ) -> Step:
        """Keeps the session's first `position` rows, appends `rows` and runs them.

        Args:
            session: from `open`; takes one step at a time. Refused rows leave it as it was; what fails while computing,
                or is cancelled, leaves `position` rows, or none where the part cannot truncate.
            position: where the rows begin.
            rows: token ids [T] (int64) if the part begins the model, else hidden states [T, D] in the part's
                dtype. No rows at all only truncates.
            then: is given the output, on the device thread and as a part of the step: what it returns is in the
                step's `made`. What it raises concerns this session alone.

        Returns:
            The part's output for these rows; with no rows an empty [0, D].

        Raises:
            PositionNotReached: also when the session's pages had to be taken from it: send everything again from 0.
            SessionClosed: also when it is closed before the rows are run.
            ContextExceeded, BadRows, EngineFull: see `splitlearn.errors`.
        """
        self._check(session, position, rows)
        session.used = self._clock()
        if not rows.shape[0]:
            # the rows behind are dropped when the next ones come
            session.reached = position
            return Step(torch.empty(0, self.part.hidden_size, dtype=self.part.dtype), Timing(0.0, 0.0))
        task = Task(session, position, rows, asyncio.get_running_loop().create_future(), time.perf_counter(), then)
        if not self._sessions.submit(task):
            seconds = self._policy.step_cost.seconds_to_serve(self.n_waiting)
            raise EngineFull(f"{self.n_waiting} sessions wait for room already; try again in {seconds:.0f} s", seconds)
        self._serving.go_on()
        self._be_patient(task)
        try:
            return await task.result
        except asyncio.CancelledError:
            self._sessions.abandon(task)
            # perhaps others waited behind it
            self._serving.go_on()
            raise
        finally:
            if task.patience is not None:
                task.patience.cancel()

    def is_waiting(self, session: EngineSession) -> bool:
        """Whether rows of the session wait for room."""
        return self._sessions.scheduler.waits(session.number)

    def _be_patient(self, task: Task) -> None:
        if (seconds := self.limits.queue_seconds) is not None:
            task.patience = asyncio.get_running_loop().call_later(seconds, self._lose_patience, task)

    def _lose_patience(self, task: Task) -> None:
        """Rows that wait for room go back to their owner; others may still lose theirs."""
        if not self.is_waiting(task.session):
            self._be_patient(task)
            return
        waited, seconds = self.limits.queue_seconds, self._policy.step_cost.seconds_to_serve(self.n_waiting)
        self._sessions.end(
            task, EngineFull(f"no room was found in {waited:g} s; try again in {seconds:.0f} s", seconds)
        )
        # it may have stood before others who need less
        self._serving.go_on()

    def _check(self, session: EngineSession, position: int, rows: torch.Tensor) -> None:
        self._serving.check_thread()
        self._sessions.check_open(session)
        task = self._sessions.tasks.get(session.number)
        if task is not None and task.result.done():
            # cancelled, and its caller has not had a turn since
            self._sessions.abandon(task)
        elif task is not None:
            raise ValueError(f"{session} has rows under way: it takes one step at a time")
        if session.lost_pages and position > session.reached == 0:
            raise session.lost()
        if rows.ndim == 0 or rows.shape[0]:
            self._checks.check_shape(rows)
        check_position(position, rows.shape[0], session.reached, session.limit)
        if 0 < position < session.reached and not self.part.can_truncate:
            raise PositionNotReached(
                f"the session holds {session.reached} rows and cannot go back to {position}: layers of a "
                f"{self.part.config.model_type} keep one state for all rows; send everything again from 0"
            )
