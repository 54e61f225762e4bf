"""An event loop whose schedule a test decides, and fakes of a part, its runner and its device thread.

Time is virtual, so thousands of schedules run in seconds. A loop on which no callback can ever run again raises at
once. Outputs are exact: each depends on all rows before it, so an output that was computed from other rows shows.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import nan
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from splitlearn.attention.page_budget import PageBudget
from splitlearn.engine import DeviceThread, Timing
from splitlearn.errors import PositionNotReached
from splitlearn.runner.interface import SequenceInput

BAD_ROW = 666.0
"""A forward that meets it fails."""


class Deadlock(Exception):
    """A callback is awaited that can never run."""


class _Selector(selectors.SelectSelector):
    loop: "ScheduledLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        self.loop.now += timeout
        return []


class ScheduledLoop(asyncio.SelectorEventLoop):
    """Runs one callback at a time: the oldest, or with `dice` any of those that are ready.

    Attributes:
        turn: callbacks run so far.
        before: called before the callback of a turn is.
        complaints: errors that no code caught.
    """

    def __init__(self, dice: Random | None = None) -> None:
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self
        self.now = 0.0
        self.turn = 0
        self.before: dict[int, list[Callable[[], Any]]] = {}
        self.complaints: list[dict[str, Any]] = []
        self._dice = dice
        self._waiting: deque[Any] = deque()
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        self._waiting.extend(self._ready)
        self._ready.clear()
        if self._waiting:
            if self._dice is not None:
                self._waiting.rotate(self._dice.randrange(len(self._waiting)))
            self._ready.append(self._waiting.popleft())
            self.turn += 1
            for meddle in self.before.pop(self.turn, ()):
                meddle()
        super()._run_once()


class ScheduledThread(DeviceThread):
    """Works on the loop itself: each piece of work begins, is done and is told in turns of its own."""

    def __init__(self, dice: Random) -> None:
        super().__init__()
        self._dice = dice
        self._queue: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def run(self, function: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        running = asyncio.get_running_loop().create_future()
        self._unfinished += 1
        running.add_done_callback(self._on_done)
        for kv in _stores(args):
            kv.lent = True
        self._queue.append((running, function, args))
        if len(self._queue) == 1:
            self._later(self._work)
        return running

    def _later(self, function: Callable[..., Any], *args: Any) -> None:
        asyncio.get_running_loop().call_later(self._dice.choice((0.0, 0.001, 0.01)), function, *args)

    def _work(self) -> None:
        _, function, args = self._queue[0]
        self._later(self._tell, function(*args))

    def _tell(self, result: Any) -> None:
        running, _, args = self._queue.popleft()
        for kv in _stores(args):
            kv.lent = False
        running.set_result((result, Timing(0.0, 0.01)))
        if self._queue:
            self._later(self._work)


def _stores(args: tuple[Any, ...]) -> list["ExactKV"]:
    return [item.kv for items in args for item in items]


@dataclass(eq=False)
class ExactKV:
    """One number for each row, made of it and all before; NaN where no row of this session was written.

    Attributes:
        lent: the device thread has it.
    """

    memory: list[float]
    n_rows: int = 0
    lent: bool = False
    gone: bool = False

    def reserve(self, position: int, rows: Sequence[float]) -> list[float]:
        if position > self.n_rows:
            raise PositionNotReached(f"{self.n_rows} rows are held, not {position}")
        del self.memory[position:]
        self.memory += exact_outputs(rows, self.memory[-1] if position else 0.0)
        self.n_rows = len(self.memory)
        return self.memory[position:]


def exact_outputs(rows: Sequence[float], before: float = 0.0) -> list[float]:
    """What comes out for rows that begin a session, or follow the row that `before` came out for."""
    outputs = []
    for row in rows:
        before = (before * 31 + row + 1) % 8191
        outputs.append(before)
    return outputs


@dataclass(eq=False)
class ExactRunner:
    """Stands for a runner. Fails where a row is `BAD_ROW`, with the rows of some sessions placed.

    Attributes:
        stores: that were made and not released.
    """

    n_pages: int
    is_batched: bool = True
    row_bytes: int = 1
    can_share_rows: bool = True
    can_truncate: bool = True
    ends_model: bool = False
    part: Any = field(default_factory=lambda: exact_part())
    fusion: str = "nothing is fused"
    stores: set[ExactKV] = field(default_factory=set)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def max_session_rows(self) -> int | None:
        found: int | None = self.part.context_length
        return found

    def page_budget(self, page_size: int) -> PageBudget:
        return PageBudget(self.n_pages, page_size)

    def new_kv(self, max_length: int | None) -> ExactKV:
        kv = ExactKV([])
        self.stores.add(kv)
        return kv

    def release(self, kv: ExactKV, n_rows: int = 0) -> None:
        assert not kv.lent, "a store was released while the device thread had it"
        assert not kv.gone, "a store was released twice"
        kv.memory[n_rows:] = [nan] * (len(kv.memory) - n_rows)
        kv.n_rows = min(kv.n_rows, n_rows)
        if not n_rows:
            kv.gone = True
            self.stores.discard(kv)

    def truncate(self, kv: ExactKV, position: int) -> ExactKV:
        assert not kv.gone
        kv.n_rows = min(kv.n_rows, position)
        return kv

    def copy_prefix(self, kv: ExactKV, kept: ExactKV, n_rows: int) -> ExactKV:
        if kept.n_rows < n_rows:
            raise PositionNotReached("evicted for others")
        kv.memory, kv.n_rows = kept.memory[:n_rows], n_rows
        return kv

    def run(self, inputs: Sequence[SequenceInput[Any]]) -> list[torch.Tensor]:
        outputs = []
        for each in inputs:
            rows = each.rows[:, 0].tolist()
            outputs.append(torch.tensor(each.kv.reserve(each.start, rows))[:, None])
        if any(BAD_ROW in each.rows for each in inputs):
            raise RuntimeError("a bad row")
        return outputs


def exact_part(context: int | None = None) -> Any:
    """The attributes of a part that an engine reads."""
    spec = SimpleNamespace(begin=False)
    config = SimpleNamespace(model_type="exact")
    return SimpleNamespace(
        spec=spec,
        hidden_size=1,
        dtype=torch.float32,
        device="cpu",
        context_length=context,
        config=config,
    )


def rows_of(numbers: Sequence[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None]
