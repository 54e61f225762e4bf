"""An engine: one part, its sessions, and the device thread that runs their rows step by step.

The scheduler decides what runs, on plain integers; the engine keeps tensors, futures and the clock.

Shapes: T rows, D hidden size, V vocabulary.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from splitlearn.engine.beat import Beat, Moment
from splitlearn.engine.device_thread import DeviceThread, Timing
from splitlearn.engine.kept import KeptRows
from splitlearn.engine.observer import EngineObserver, NoObserver
from splitlearn.engine.pace import BLOCK_ROWS, Pace
from splitlearn.engine.positions import check_position
from splitlearn.engine.scheduler import Job, Limits, Scheduler, Slice
from splitlearn.engine.session import EngineSession, Step, Task
from splitlearn.errors import BadRows, EngineFull, PositionNotReached
from splitlearn.kv.pages import PageLedger
from splitlearn.part import Part
from splitlearn.steps.runner import Span, runner_for


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
    """

    def __init__(
        self,
        part: Part,
        thread: DeviceThread,
        limits: Limits | None = None,
        observer: EngineObserver | None = None,
        runner: Callable[[Part, int | None], Any] = runner_for,
    ) -> None:
        self.part = part
        self.limits = limits or Limits()
        self._runner = runner(part, self.limits.kv_bytes)
        self._thread = thread
        self._observer = observer or NoObserver()
        self._pace = Pace(self.limits.step_rows)
        self._beat = Beat(self._pace, self.runs_in_batches)
        self._gathering = self._beat.gathering
        thread.gatherings.add(self._gathering)
        self._ledger: PageLedger = self._runner.ledger(self.limits.page_rows)
        most_kept = self.limits.kept if self._runner.can_share_rows else 0
        self._kept = KeptRows(most_kept, self.limits.block_rows, self._ledger, self._runner.let_go)
        self._scheduler = Scheduler(self.limits, self._ledger, self._kept.give_up)
        self._sessions: dict[int, EngineSession] = {}
        self._tasks: dict[int, Task] = {}
        self._numbers = count()
        # set while a step waits for more sessions; done when one comes or goes
        self._arrival: asyncio.Future[None] | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def runs_in_batches(self) -> bool:
        return bool(self._runner.in_batches)

    @property
    def row_bytes(self) -> int:
        """Memory for the keys and values of one row of one session."""
        return int(self._runner.row_bytes)

    @property
    def n_waiting(self) -> int:
        """Sessions with rows to run for which there is no room."""
        return self._scheduler.n_waiting

    @property
    def prompt_rows(self) -> int:
        """How many rows of a prompt to bring at a time: as the next step takes, few while others wait for tokens."""
        return max(BLOCK_ROWS, self._beat.prompt_rows(self._moment(None)))

    @property
    def n_kept(self) -> int:
        """Closed sessions whose first rows are kept."""
        return len(self._kept)

    @property
    def pages(self) -> PageLedger:
        """Who holds which pages; to look at only."""
        return self._ledger

    def open(self, max_length: int | None = None, prefix: Sequence[bytes] = ()) -> EngineSession:
        """A session of at most `max_length` rows, and never more than the model's context or all pages hold.

        Args:
            prefix: names of the blocks that it will begin with; see `splitlearn.kv.prefixes`. The session's `reached`
                says how many rows it holds already.
        """
        limits = (max_length, self.part.context_length, self._ledger.total * self._ledger.page_rows)
        limit = min(n for n in limits if n)
        session = EngineSession(next(self._numbers), limit, self._runner.new_kv(limit), time.monotonic())
        self._sessions[session.number] = session
        found = self._kept.find(prefix, limit)
        if found is not None and self._scheduler.let_in(session.number, found[1]):
            session.begins_with, session.reached = found, found[1]
            self._observer.reused(session.reached)
        return session

    def keep(self, session: EngineSession, names: Sequence[bytes]) -> None:
        """Closes a session and keeps the rows of its first blocks for later ones.

        Args:
            names: of its blocks, from the first on; those that it does not hold in full are ignored.
        """
        names = self._kept.whole_blocks(names, session.reached)
        is_quiet = session.number not in self._tasks and session.begins_with is None
        if names and is_quiet:
            self._kept.keep(session.number, names, session.kv)
            # what is kept is no longer the session's, which its owner may close once more
            session.kv = self._runner.new_kv(session.limit)
        self.close(session)

    def close(self, session: EngineSession) -> None:
        """Gives back what the session holds. Rows of it that are being run come to nothing."""
        self._runner.let_go(session.kv)
        self._forget(session.number)
        self._sessions.pop(session.number, None)
        self._scheduler.leave(session.number)
        self._go_on()

    def expire(self, idle_seconds: float) -> None:
        """Takes the pages of sessions that were not used for so long; they stay open and may send everything again."""
        before = time.monotonic() - idle_seconds
        for session in self._sessions.values():
            if session.used < before and session.number not in self._tasks and session.reached:
                self._scheduler.expire(session.number)
                self._empty(session)
                self._observer.expired()
        self._go_on()

    async def step(
        self,
        session: EngineSession,
        position: int,
        rows: torch.Tensor,
        then: Callable[[torch.Tensor], Any] | None = None,
    ) -> Step:
        """Keeps the session's first `position` rows, appends `rows` and runs them.

        Args:
            session: from `open`; takes one step at a time. Refused rows leave it as it was, a failure while computing
                leaves `position` rows, or none where the part cannot truncate.
            position: where the rows begin.
            rows: token ids [T] (int64) if the part begins the model, else hidden states [T, D] in the part's
                dtype. No rows at all only truncates.
            then: is given the output, on the device thread and as a part of the step: what it returns is in the
                step's `made`. What it raises concerns this session alone.

        Returns:
            The part's output for these rows; with no rows an empty [0, D].

        Raises:
            PositionNotReached: also when the session's pages had to be taken from it: send everything again from 0.
            ContextExceeded, BadRows, EngineFull: see `splitlearn.errors`.
        """
        self._check(session, position, rows)
        session.used = time.monotonic()
        task = Task(session, position, rows, asyncio.get_running_loop().create_future(), time.perf_counter(), then)
        if not rows.shape[0]:
            # the rows behind are dropped when the next ones come
            session.reached = position
            return Step(torch.empty(0, self.part.hidden_size, dtype=self.part.dtype), Timing(0.0, 0.0))
        if not self._scheduler.submit(Job(session.number, position, rows.shape[0], session.limit)):
            seconds = self._pace.seconds_for(self.n_waiting)
            raise EngineFull(f"{self.n_waiting} sessions wait for room already; try again in {seconds:.0f} s", seconds)
        self._tasks[session.number] = task
        if task.is_decoding:
            self._gathering.came(session.number, session.used)
        self._go_on()
        self._be_patient(task)
        try:
            return await task.result
        finally:
            if task.patience is not None:
                task.patience.cancel()
            if task.result.cancelled():
                self._fall_back(task)
                self._forget(session.number)

    def is_waiting(self, session: EngineSession) -> bool:
        """Whether rows of the session wait for room."""
        return self._scheduler.waits(session.number)

    def _be_patient(self, task: Task) -> None:
        task.patience = asyncio.get_running_loop().call_later(self.limits.queue_seconds, self._lose_patience, task)

    def _lose_patience(self, task: Task) -> None:
        """Rows that wait for room go back to their owner; others may still lose theirs."""
        if not self.is_waiting(task.session):
            self._be_patient(task)
            return
        waited, seconds = self.limits.queue_seconds, self._pace.seconds_for(self.n_waiting)
        error = EngineFull(f"no room was found in {waited:g} s; try again in {seconds:.0f} s", seconds)
        self._fail(task, error)
        # it may have stood before others who need less
        self._go_on()

    def _go_on(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        if self._serving is None and self._tasks:
            self._serving = asyncio.create_task(self._serve())
            self._serving.add_done_callback(self._served)

    async def _serve(self) -> None:
        """Step after step, until nothing is left that could be run."""
        try:
            while self._tasks and await self._one_step():
                pass
        finally:
            # before anybody else's turn, who would otherwise think that this goes on
            self._serving = None
        if not self._tasks and (complaint := self._ledger.complaint()):
            raise RuntimeError(f"the pages do not add up: {complaint}")

    async def _one_step(self) -> bool:
        """False if there is no room for any of those who wait."""
        # who comes while others have the thread can still be part of the step
        await self._thread.free()
        decision = self._scheduler.decide(await self._gather())
        for number in decision.preempted:
            self._preempt(number)
        if decision.slices:
            await self._take([(self._tasks[piece.session], piece) for piece in decision.slices])
        return bool(decision.slices)

    async def _gather(self) -> int:
        """Waits for those who are worth it; the rows of prompts for the step."""
        since = None
        while True:
            moment = self._moment(since)
            start = self._beat.start(moment)
            if start.wait <= 0:
                return start.prompt_rows
            since = since or (moment.now if moment.n_ready else None)
            self._arrival = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._arrival}, timeout=start.wait)
            self._arrival = None

    def _moment(self, since: float | None) -> Moment:
        now = time.monotonic()
        n_ready = sum(task.is_decoding for task in self._tasks.values())
        due = self._thread.next_due(now)
        return Moment(now, n_ready, len(self._tasks) - n_ready, since, due, self._thread.shares_cores)

    def _served(self, serving: "asyncio.Task[None]") -> None:
        if not serving.cancelled() and (error := serving.exception()) is not None:
            # nobody runs their rows any more: better to say so than to let them wait
            for task in list(self._tasks.values()):
                self._fail(task, error)

    async def _take(self, work: list[tuple[Task, Slice]]) -> None:
        """One step."""
        asked = time.perf_counter()
        running = self._thread.run(self._run, work)
        await asyncio.wait({running})
        if (error := running.exception()) is not None:
            for task, _ in work:
                self._fail(task, error)
            return
        results, timing = running.result()
        for (task, piece), result in zip(work, results, strict=True):
            task.began = task.began or asked + timing.queue_seconds
            task.compute_seconds += timing.compute_seconds
            self._settle(task, piece, result)
        prompt_rows = sum(piece.count for task, piece in work if not task.is_decoding)
        n_decoding = sum(task.is_decoding for task, _ in work)
        self._pace.learn(n_decoding, prompt_rows, timing.compute_seconds)
        self._observer.step_done(len(work), sum(piece.count for _, piece in work), timing.compute_seconds)

    def _run(self, work: list[tuple[Task, Slice]]) -> list[torch.Tensor | Exception]:
        """On the device thread: all slices in one step. Rows that cannot be run are left out, and say why."""
        refused: dict[int, BadRows | PositionNotReached] = {}
        spans = []
        for task, piece in work:
            session, last = task.session, piece.start + piece.count
            if piece.start == 0 and (refusal := self._refusal(task.rows) or self._go_back(session, task.position)):
                refused[session.number] = refusal
                continue
            rows = task.rows[piece.start : last]
            needs_output = not self.part.spec.end or last == task.rows.shape[0]
            spans.append(Span(session.kv, task.position + piece.start, rows, needs_output))
        outputs = iter(self._runner.run(spans) if spans else ())
        return [
            refused.get(task.session.number) or self._made(task, piece, next(outputs).cpu()) for task, piece in work
        ]

    def _made(self, task: Task, piece: Slice, output: torch.Tensor) -> torch.Tensor | Exception:
        if task.then is not None and piece.start + piece.count == task.rows.shape[0]:
            try:
                task.made = task.then(output)
            except Exception as error:  # noqa: BLE001 - goes to the one who asked, and not to those who share the step
                return error
        return output

    def _settle(self, task: Task, piece: Slice, result: torch.Tensor | Exception) -> None:
        session = task.session
        if self._tasks.get(session.number) is not task:
            return
        if isinstance(result, PositionNotReached):
            self._scheduler.expire(session.number)
            self._empty(session)
        if isinstance(result, BadRows | PositionNotReached):
            task.result.set_exception(result)
            self._forget(session.number)
            return
        if isinstance(result, Exception):
            self._fail(task, result)
            return
        task.outputs.append(result)
        session.reached = task.position + piece.start + piece.count
        if not self._scheduler.advance(session.number, piece.count):
            return
        del self._tasks[session.number]
        if task.is_decoding:
            self._gathering.went(session.number, time.monotonic())
        output = task.outputs[-1] if self.part.spec.end or len(task.outputs) == 1 else torch.cat(task.outputs)
        queued = (task.began or task.submitted) - task.submitted
        task.result.set_result(Step(output, Timing(queued, task.compute_seconds), task.made))

    def _fail(self, task: Task, error: BaseException) -> None:
        if self._tasks.get(task.session.number) is task:
            self._fall_back(task)
            task.result.set_exception(error)
            self._forget(task.session.number)

    def _fall_back(self, task: Task) -> None:
        """After a failure midway the first layers hold rows that the last ones lack."""
        task.session.reached = task.position if self.part.can_truncate else 0

    def _forget(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        self._scheduler.drop(number)
        self._gathering.forget(number)
        if task is not None:
            task.result.cancel()

    def _preempt(self, number: int) -> None:
        """Takes everything from a session whose pages are gone already."""
        self._observer.preempted()
        task = self._tasks.get(number)
        self._empty(self._sessions[number])
        if task is None:
            return
        if task.position == 0:
            # everything that it held is at hand: it begins again when there is room
            self._scheduler.begin_again(number)
            task.outputs.clear()
        else:
            task.result.set_exception(self._sessions[number].lost())
            self._forget(number)

    def _empty(self, session: EngineSession) -> None:
        self._runner.let_go(session.kv)
        session.kv = self._runner.new_kv(session.limit)
        session.begins_with = None
        session.reached = 0
        session.lost_pages = True

    def _go_back(self, session: EngineSession, position: int) -> PositionNotReached | None:
        """None, or why the session has lost what it was to begin with."""
        begins_with, session.begins_with = session.begins_with, None
        if begins_with is not None and position:
            kept, rows = begins_with
            try:
                session.kv = self._runner.begin_with(session.kv, kept, min(rows, position))
            except PositionNotReached as error:
                return error
        session.kv = self._runner.go_back(session.kv, position)
        return None

    def _check(self, session: EngineSession, position: int, rows: torch.Tensor) -> None:
        if session.lost_pages and position > session.reached == 0:
            raise session.lost()
        check_position(position, rows.shape[0], session.reached, session.limit)
        if 0 < position < session.reached and not self.part.can_truncate:
            raise PositionNotReached(
                f"the session holds {session.reached} rows and cannot go back to {position}: layers of a "
                f"{self.part.config.model_type} keep one state for all rows; send everything again from 0"
            )
        if self.part.spec.begin:
            return
        if rows.ndim != 2 or rows.shape[1] != self.part.hidden_size:
            raise BadRows(f"rows must have the shape [T, {self.part.hidden_size}], found {list(rows.shape)}")
        if rows.dtype != self.part.dtype:
            raise BadRows(f"rows must be {_name(self.part.dtype)}, as the fingerprint says; found {_name(rows.dtype)}")

    def _refusal(self, rows: torch.Tensor) -> BadRows | None:
        if self.part.spec.begin or bool(torch.isfinite(rows).all()):
            return None
        bad = int((~torch.isfinite(rows)).any(dim=1).sum())
        return BadRows(f"{bad} of {rows.shape[0]} rows hold NaN or infinity; nothing was computed")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
