"""The sessions of one engine and their tasks, and all that becomes of them. On the event loop alone.

Shapes: T rows, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from splitlearn.engine.arrivals import ArrivalEstimator
from splitlearn.engine.device_step import Work
from splitlearn.engine.device_thread import Timing
from splitlearn.engine.observer import EngineObserver
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.prefix_cache import PrefixCache
from splitlearn.engine.scheduler import Job, Limits, Scheduler, Slice
from splitlearn.engine.session import EngineSession, Step, Task
from splitlearn.errors import PositionNotReached, SessionClosed
from splitlearn.part import Part


class Sessions:
    """Keeps sessions, tasks, scheduler, pages and stores in step with each other.

    A session's store is the device thread's while a step runs with it (`in_step`): nothing here touches it then, and a
    session that is closed in a step leaves when that is over.

    Args:
        runner: makes stores and gives them up.
        clock: seconds, never going back.

    Attributes:
        tasks: by the number of their session; the scheduler has a job of each.
    """

    def __init__(
        self,
        part: Part,
        runner: Any,
        limits: Limits,
        arrivals: ArrivalEstimator,
        observer: EngineObserver,
        clock: Callable[[], float],
    ) -> None:
        self._runner, self._arrivals, self._observer, self._clock = runner, arrivals, observer, clock
        self._is_end, self._can_truncate = part.spec.end, part.can_truncate
        budget = runner.page_budget(limits.page_rows)
        self.pages = PageAccounting(budget.n_pages, budget.page_size)
        max_prefixes = limits.kept if runner.can_share_rows else 0
        self.prefix_cache = PrefixCache(max_prefixes, limits.block_rows, self.pages, runner.let_go)
        self.scheduler = Scheduler(limits, self.pages, self.prefix_cache.evict)
        self.tasks: dict[int, Task] = {}
        # the scheduler knows no others, but for those that were closed in the step that runs
        self._open: dict[int, EngineSession] = {}
        self._numbers = count()

    def open(self, limit: int, prefix: Sequence[bytes]) -> EngineSession:
        """A session of at most `limit` rows, which begins with what is kept of `prefix` if there is room for it."""
        session = EngineSession(next(self._numbers), limit, self._runner.new_kv(limit), self._clock())
        self._open[session.number] = session
        found = self.prefix_cache.find(prefix, limit)
        if found is not None and self.scheduler.let_in(session.number, found.length):
            session.begins_with, session.reached = found, found.length
            self._observer.reused(session.reached)
        return session

    def check_open(self, session: EngineSession) -> None:
        """Raises SessionClosed if it is not."""
        if self._open.get(session.number) is not session:
            raise SessionClosed(f"{session} was closed, or its rows are kept for others: open another one")

    def close_and_cache(self, session: EngineSession, block_hashes: Sequence[bytes]) -> None:
        """Closes an open session, and keeps its first rows unless it has rows under way."""
        is_quiet = session.number not in self.tasks and not session.in_step and session.begins_with is None
        block_hashes = self.prefix_cache.cacheable_blocks(block_hashes, session.reached) if is_quiet else ()
        if block_hashes:
            self.prefix_cache.insert(session.number, block_hashes, session.kv)
            session.kv = None
        self.close(session)

    def close(self, session: EngineSession) -> None:
        """Does nothing if it is closed."""
        if self._open.get(session.number) is not session:
            return
        del self._open[session.number]
        task = self.tasks.get(session.number)
        if task is not None:
            self.end(task, SessionClosed(f"{session} was closed while its rows were waited for"))
        if not session.in_step:
            self._leave(session)

    def expire(self, before: float) -> None:
        """Takes pages and rows from sessions that nobody has used since."""
        for session in list(self._open.values()):
            is_quiet = session.number not in self.tasks and not session.in_step
            # one that went back to 0, or left while its first rows were run, has pages and no rows
            if session.used < before and is_quiet and (session.reached or self.pages.held_by(session.number)):
                self._lose(session)
                self._observer.expired()

    def submit(self, task: Task) -> bool:
        """Takes the task of a session that has none. False, and nothing changes, if it could not even wait."""
        session = task.session
        if not self.scheduler.submit(Job(session.number, task.position, task.rows.shape[0], session.limit)):
            return False
        self.tasks[session.number] = task
        if task.is_decoding:
            self._arrivals.on_received(session.number, session.used)
        return True

    def works(self, slices: Sequence[Slice]) -> list[Work]:
        """What the device thread needs of these."""
        return [Work.of(self.tasks[piece.session], piece) for piece in slices]

    def hand_over(self, works: Sequence[Work]) -> None:
        """The device thread has them, and the stores in them, until they are settled."""
        for work in works:
            work.task.session.in_step = True

    def settle(self, work: Work, timing: Timing, asked: float) -> None:
        """Takes a session's rows back after a step, and tells who waits what came of them.

        Args:
            asked: when the step was given to the device thread, on the performance counter.
        """
        task, session = work.task, work.task.session
        session.in_step, session.kv, session.begins_with = False, work.kv, work.begins_with
        # an error holds on to the frames that it went through, and they to this
        error, work.error, work.kv = work.error, None, None
        if self._open.get(session.number) is not session:
            self._leave(session)
            return
        if self.tasks.get(session.number) is not task:
            # its caller has left in the meantime, and the next rows may wait already
            session.reached = min(session.reached, work.reached)
            return
        session.reached, session.used = work.reached, self._clock()
        if error is not None:
            self.end(task, error)
            if isinstance(error, PositionNotReached):
                self._lose(session)
            return
        task.began = task.began or asked + timing.queue_seconds
        task.compute_seconds += timing.compute_seconds
        task.outputs.append(torch.as_tensor(work.output))
        if self.scheduler.advance(session.number, work.piece.count):
            output = task.outputs[-1] if self._is_end or len(task.outputs) == 1 else torch.cat(task.outputs)
            self.end(task, Step(output, Timing(task.began - task.submitted, task.compute_seconds), work.made))

    def end(self, task: Task, outcome: Step | Exception) -> None:
        """The one way in which a task comes to its end, but for callers who leave."""
        if self._take_away(task):
            if not isinstance(outcome, Step):
                self._arrivals.forget(task.session.number)
            elif task.is_decoding:
                self._arrivals.on_sent(task.session.number, self._clock())
        task.finish(outcome)

    def abandon(self, task: Task) -> None:
        """Its caller has left."""
        if self._take_away(task):
            self._arrivals.forget(task.session.number)
            self._fall_back(task)

    def fail_all(self, error: Exception) -> None:
        """Nobody runs their rows any more: better to say so than to let them wait."""
        for task in list(self.tasks.values()):
            self._fall_back(task)
            self.end(task, error)

    def preempt(self, number: int) -> None:
        """Takes everything from a session whose pages are gone already."""
        self._observer.preempted()
        session, task = self._open[number], self.tasks.get(number)
        self._empty(session)
        if task is None:
            return
        if task.position == 0:
            # everything that it held is at hand: it begins again when there is room
            self.scheduler.begin_again(number)
            task.outputs.clear()
        else:
            self.end(task, session.lost())

    def _take_away(self, task: Task) -> bool:
        """False if it has come to its end before."""
        number = task.session.number
        if self.tasks.get(number) is not task:
            return False
        del self.tasks[number]
        self.scheduler.drop(number)
        return True

    def _fall_back(self, task: Task) -> None:
        """Leaves the rows before those of a task that has begun: midway the first layers have more than the last."""
        if task.session.in_step or task.outputs:
            task.session.reached = task.position if self._can_truncate else 0

    def _lose(self, session: EngineSession) -> None:
        """Takes pages and rows from a session that has no task; it may come back."""
        self.scheduler.expire(session.number)
        self._empty(session)

    def _empty(self, session: EngineSession) -> None:
        self._runner.let_go(session.kv)
        session.kv = self._runner.new_kv(session.limit)
        session.begins_with = None
        session.reached = 0
        session.lost_pages = True

    def _leave(self, session: EngineSession) -> None:
        """The end of a closed session that no step runs with."""
        if session.kv is not None:
            self._runner.let_go(session.kv)
        session.kv = session.begins_with = None
        self.scheduler.leave(session.number)
        self._arrivals.forget(session.number)
