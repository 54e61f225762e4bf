"""An engine: one part, its sessions, and the device thread that runs their rows step by step.

The scheduler decides what runs, on plain integers; the engine keeps tensors, futures and the clock.

Which thread may touch what:

- **The event loop's thread** calls every method, and owns all that they change: sessions, requests and their futures,
  scheduler, page accounting, prefix cache, batching policy.
- **The device thread** runs `DeviceStep.run` and nothing else of an engine. It owns the part and the runner, and from
  a step's beginning to its end the keys and values (`kv`) of the sessions in it, which go to it in a `WorkItem` and
  come back in it. It writes to no session. The event loop releases keys and values only while no step runs with them:
  a session that is closed during a step is removed after it.
- **Any thread** may read `n_running`, `n_waiting`, `n_cached_prefixes`, and `used` and `total` of `pages`: each is a
  number, or the length of a dictionary. Any thread may create an engine.

An error that one session causes (by its rows, by `postprocess`, by a caller that leaves, by a cached prefix that was
evicted) ends at most its own request. An error that no session caused (the device thread was closed, a fault in the
engine) ends all pending requests, and later ones are served.

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
from splitlearn.engine.limits import Limits
from splitlearn.engine.observer import EngineObserver, Guarded, NoObserver
from splitlearn.engine.owners import Owner
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.positions import check_position
from splitlearn.engine.request import PendingRequest, RowReader, StepResult
from splitlearn.engine.row_checks import RowChecks
from splitlearn.engine.serving import Serving
from splitlearn.engine.session import EngineSession
from splitlearn.engine.sessions import Sessions
from splitlearn.engine.speculation import Speculation
from splitlearn.engine.step_cost import StepCostModel
from splitlearn.errors import EngineFailed, PositionNotReached
from splitlearn.runner.interface import Runner

Postprocess = Callable[[torch.Tensor], Any]
"""Called with a step's output, on the device thread."""


class Engine:
    """Runs a part for any number of sessions: rows of all of them in one step where the architecture allows it.

    `splitlearn.build.build_engine` makes one for a part. Used on the event loop's thread; see the module's docstring.

    Args:
        runner: runs the part; the engine takes it over.
        thread: runs the steps; several engines may share it.
        limits: how many rows, sessions and bytes.
        observer: hears of steps and sessions.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        runner: Runner[Any],
        thread: DeviceThread,
        limits: Limits | None = None,
        observer: EngineObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.part = part = runner.part
        self.limits = limits or Limits()
        self._runner = runner
        self._clock = clock
        self._checks = RowChecks(part)
        guarded = Guarded(observer or NoObserver())
        self._policy = BatchingPolicy(StepCostModel(self.limits.max_num_batched_tokens), self.is_batched)
        thread.watch(self._policy.arrivals)
        self._sessions = Sessions(self._runner, self.limits, self._policy.arrivals, guarded, clock)
        step = DeviceStep(self._runner, self._checks)
        self._serving = Serving(self._sessions, thread, step, self._policy, guarded, clock)

    def __repr__(self) -> str:
        scheduler, pages = self._sessions.scheduler, self.pages
        return (
            f"<Engine {scheduler.n_running} running, {scheduler.n_waiting} waiting, {pages.used}/{pages.total} pages>"
        )

    @property
    def is_batched(self) -> bool:
        """Whether rows of several sessions share a step."""
        return self._runner.is_batched

    @property
    def device(self) -> torch.device:
        """Where the part's layers are computed."""
        return self._runner.device

    @property
    def max_session_rows(self) -> int:
        """Rows that a session may ever hold: the model's context, or less where its runner or all pages hold less."""
        capacity = self.pages.total * self.pages.page_size
        return min(self._runner.max_session_rows or capacity, capacity)

    @property
    def speculation(self) -> Speculation:
        """Whether guesses can run behind a session's rows."""
        if not self._runner.can_truncate:
            return Speculation.NONE
        return Speculation.EXACT if self._runner.fusion.is_batch_invariant else Speculation.ROUNDED

    @property
    def row_bytes(self) -> int:
        """Memory for the keys and values of one row of one session."""
        return self._runner.row_bytes

    @property
    def n_running(self) -> int:
        """Sessions that are admitted, with rows to run or without. From any thread."""
        return self._sessions.scheduler.n_running

    @property
    def n_waiting(self) -> int:
        """Sessions with rows to run that are not admitted. From any thread."""
        return self._sessions.scheduler.n_waiting

    @property
    def n_cached_prefixes(self) -> int:
        """Closed sessions whose first rows are cached. From any thread."""
        return len(self._sessions.prefix_cache)

    @property
    def n_available_pages(self) -> int:
        """Pages that no session holds: free ones, and those of cached prefixes, which make way."""
        return self.pages.free + self._sessions.prefix_cache.n_pages

    @property
    def pages(self) -> PageAccounting:
        """Which session holds how many pages; read only."""
        return self._sessions.pages

    @property
    def prefill_chunk_size(self) -> int:
        """Rows of a prompt to send at a time: as many as the next step takes, few while others wait for tokens."""
        return self._policy.prefill_chunk_size(self._serving.state())

    def open(
        self,
        max_length: int | None = None,
        block_hashes: Sequence[bytes] = (),
        owner: Owner = (),
        opened_at: float | None = None,
        *,
        refused_elsewhere: bool = False,
    ) -> EngineSession:
        """A session of at most `max_length` rows, and never more than the model's context or all pages hold.

        Args:
            block_hashes: of the blocks that it will begin with; see `splitlearn.engine.prefix_index`. The session's
                `reached` says how many rows it holds already.
            owner: whose session it is: as many names for all sessions, from the outermost inwards. They take turns
                when sessions wait for memory, first among the outermost names.
            opened_at: when its user's client opened it, in seconds since the epoch; None for now. A session that runs
                in several engines must have the same time in all of them, and no other session of its client that
                time: it decides which session is older, and if engines disagreed on that, sessions could wait for
                each other.
            refused_elsewhere: another engine, which its user may use as well, has told it when to come again.

        Raises:
            EngineFull: it is expected to wait for longer than it may.
            ValueError: `opened_at` is negative, infinite or not a number.
        """
        self._serving.check_thread()
        return self._sessions.open(
            min(max_length or self.max_session_rows, self.max_session_rows),
            block_hashes,
            owner,
            opened_at,
            refused_elsewhere=refused_elsewhere,
        )

    def close_and_cache(self, session: EngineSession, block_hashes: Sequence[bytes]) -> None:
        """Closes a session and caches the rows of its first blocks for later sessions.

        Args:
            block_hashes: of its blocks, from the first on. Blocks that it does not hold in full are ignored, and all
                of them while rows of the session run or wait.

        Raises:
            SessionClosed: it was closed before.
        """
        self._serving.check_thread()
        self._sessions.check_open(session)
        self._sessions.close_and_cache(session, block_hashes)
        self._serving.wake()

    def close(self, session: EngineSession) -> None:
        """Frees what the session holds; a pending step of it raises SessionClosed. Does nothing if it is closed."""
        self._serving.check_thread()
        self._sessions.close(session)
        self._serving.wake()

    def expire(self, idle_seconds: float) -> None:
        """Frees the pages of sessions that were idle for this long; they stay open, and must send all rows again."""
        self._serving.check_thread()
        self._sessions.expire(self._clock() - idle_seconds)
        self._serving.wake()

    async def step(
        self,
        session: EngineSession,
        position: int,
        rows: torch.Tensor,
        postprocess: Postprocess | None = None,
        reader: RowReader | None = None,
        n_likeliest: int | None = None,
    ) -> StepResult:
        """Keeps the session's first `position` rows, appends `rows` and runs them.

        Args:
            session: from `open`; takes one step at a time. Refused rows leave it as it was; rows that fail or are
                cancelled while they run leave `position` rows, or none where the part cannot truncate.
            position: where the rows begin.
            rows: token ids [T] (int64) if the part begins the model, else hidden states [T, D] in the part's
                dtype. No rows at all only truncate.
            postprocess: called with the output on the device thread, as a part of the step; its result is in the
                step's `postprocessed`. An error that it raises fails this step alone.
            reader: for a part that ends the model, which then gives it the logits or the hidden states of all rows.
            n_likeliest: for a part that ends the model: logits may be minus infinity if they are smaller than so many
                others, which may save time; None: none may.

        Returns:
            The part's output for these rows, or for a part that ends the model of the last one; with no rows an empty
            [0, D].

        Raises:
            PositionNotReached: also when the session's pages had to be taken from it: send everything again from 0.
            SessionClosed: also when it is closed before the rows have run.
            ContextExceeded, BadRows, EngineFull: see `splitlearn.errors`.
        """
        self._check(session, position, rows)
        session.last_used = self._clock()
        if not rows.shape[0]:
            return self._truncate(session, position)
        result = asyncio.get_running_loop().create_future()
        request = PendingRequest(session, position, rows, result, time.perf_counter(), postprocess, reader, n_likeliest)
        self._submit(request)
        return await self._collect(request)

    async def failed(self) -> None:
        """Waits until processes that the runner needs are lost for good; steps then fail too. One may wait.

        Raises:
            EngineFailed: always, if it ends.
        """
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[EngineFailed] = loop.create_future()

        def settle(error: EngineFailed) -> None:
            if not lost.done():
                lost.set_result(error)

        def tell(error: EngineFailed) -> None:
            loop.call_soon_threadsafe(settle, error)

        self._runner.on_failure(tell)
        raise await lost

    def close_runner(self) -> None:
        """Ends what the runner has started. Called last, when no step runs."""
        self._runner.close()

    def expect_prompt(self, session: EngineSession) -> None:
        """Must be called when the session's next rows will be its prompt again, and not the row of its next token.

        Otherwise prompts of other sessions would wait for a token that cannot come, and that in all engines of the
        device thread: call it for each engine that the session has rows in.
        """
        self._serving.check_thread()
        self._policy.arrivals.forget(session.number)
        self._serving.wake()

    def is_waiting(self, session: EngineSession) -> bool:
        """Whether rows of the session wait for admission."""
        return self._sessions.scheduler.is_waiting(session.number)

    def is_stepping_in_time(self) -> bool:
        """Whether a step runs that has not taken much longer than such steps took before."""
        return self._serving.is_stepping_in_time()

    def _check(self, session: EngineSession, position: int, rows: torch.Tensor) -> None:
        """Raises what `step` raises before anything changes. Values of rows are checked on the device thread."""
        self._serving.check_thread()
        self._sessions.check_open(session)
        self._check_idle(session)
        if session.lost_pages and position > session.reached == 0:
            raise session.lost_rows()
        if rows.ndim == 0 or rows.shape[0]:
            self._checks.check_shape(rows)
        check_position(position, rows.shape[0], session.reached, session.max_length)
        if 0 < position < session.reached and not self._runner.can_truncate:
            raise PositionNotReached(
                f"the session holds {session.reached} rows and cannot go back to {position}: layers of a "
                f"{self.part.config.model_type} keep one state for all rows; send everything again from 0"
            )

    def _check_idle(self, session: EngineSession) -> None:
        """Raises ValueError if a step of the session is pending."""
        request = self._sessions.requests.get(session.number)
        if request is None:
            return
        if not request.result.done():
            raise ValueError(f"{session} has rows under way: it takes one step at a time")
        # it was cancelled, and its caller has not run since
        self._sessions.abort(request)

    def _truncate(self, session: EngineSession, position: int) -> StepResult:
        """Keeps the first `position` rows; the keys and values behind them are dropped when the next rows come."""
        session.reached = position
        return StepResult(torch.empty(0, self.part.hidden_size, dtype=self.part.dtype), Timing(0.0, 0.0))

    def _submit(self, request: PendingRequest) -> None:
        """Submits the rows; they run in one step or in several, beside those of other sessions."""
        self._sessions.submit(request)
        self._serving.wake()
        self._start_queue_timer(request)

    async def _collect(self, request: PendingRequest) -> StepResult:
        """Waits for the result; a caller that is cancelled aborts its request."""
        try:
            return await request.result
        except asyncio.CancelledError:
            self._sessions.abort(request)
            # other requests may have waited behind it
            self._serving.wake()
            raise
        finally:
            if request.queue_timer is not None:
                request.queue_timer.cancel()

    def _start_queue_timer(self, request: PendingRequest) -> None:
        seconds = self.limits.queue_timeout
        if seconds is not None:
            request.queue_timer = asyncio.get_running_loop().call_later(seconds, self._on_queue_timeout, request)

    def _on_queue_timeout(self, request: PendingRequest) -> None:
        """Refuses a request that is not admitted; an admitted one may still be preempted, and wait again."""
        if not self.is_waiting(request.session):
            self._start_queue_timer(request)
            return
        why = f"waited {self.limits.queue_timeout:g} s for {self._sessions.scheduler.shortage}"
        self._sessions.finish(request, self._sessions.full(request.session, why))
        # requests behind it may need fewer pages
        self._serving.wake()
