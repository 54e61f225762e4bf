"""What vLLM is told of a step: plain values, which processes can be sent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.vllm.blocks import BlockPool, SessionBlocks


@dataclass(frozen=True)
class RequestRows:
    """New rows of one request.

    Attributes:
        name: of the request.
        start: rows that it holds already.
        length: new rows.
        blocks: all of its blocks if it is new to vLLM; else those that vLLM was not told yet.
        is_new: whether vLLM hears of the request for the first time.
    """

    name: str
    start: int
    length: int
    blocks: list[int]
    is_new: bool


@dataclass(frozen=True)
class StepPlan:
    """One forward.

    Attributes:
        rows: in the order of the rows that go with the plan.
        finished: requests to forget first.
        copies: (from, to) of blocks that are copied before the forward.
    """

    rows: list[RequestRows]
    finished: set[str] = field(default_factory=set)
    copies: list[tuple[int, int]] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        return sum(each.length for each in self.rows)

    @property
    def lengths(self) -> dict[str, int]:
        """New rows of each request, in order."""
        return {each.name: each.length for each in self.rows}


class Planner:
    """Turns the rows of sessions into plans, in the names of one pool's requests."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._names = count(1)

    def plan(self, slices: Sequence[SequenceSlice[SessionBlocks]]) -> StepPlan:
        """Reserves blocks for the rows, each session at most once.

        Raises:
            NoRoom, PositionNotReached, SessionClosed: of `BlockPool.reserve`.
        """
        copies = self._pool.reserve(slices)
        rows = [self._request(session, start, length) for session, start, length in slices]
        finished, self._pool.finished = self._pool.finished, set()
        return StepPlan(rows, finished, [(of, to) for to, of in copies.items()])

    def _request(self, session: SessionBlocks, start: int, length: int) -> RequestRows:
        is_new = session.request is None
        if session.request is None:
            session.request = str(next(self._names))
        told = session.blocks[session.n_known :]
        session.n_known = len(session.blocks)
        return RequestRows(session.request, start, length, told, is_new)

    def fail(self, slices: Sequence[SequenceSlice[SessionBlocks]], plan: StepPlan) -> None:
        """After a forward that failed: drops its rows, and all rows where a block may not have been copied."""
        self._pool.finished |= plan.finished
        copied = {to for _, to in plan.copies}
        for session, start, _ in slices:
            self._pool.forget(session)
            self._pool.truncate(session, 0 if copied.intersection(session.blocks) else start)


@dataclass(frozen=True)
class Piece:
    """Rows `offset` to `offset + length` of one of several inputs."""

    index: int
    offset: int
    length: int


def forwards(lengths: Sequence[int], max_rows: int, max_requests: int) -> Iterator[list[Piece]]:
    """The forwards that inputs of these lengths take: each of at most so many rows and requests, in order."""
    batch: list[Piece] = []
    left = max_rows
    for index, length in enumerate(lengths):
        offset = 0
        while offset < length:
            if not left or len(batch) == max_requests:
                yield batch
                batch, left = [], max_rows
            taken = min(left, length - offset)
            batch.append(Piece(index, offset, taken))
            offset, left = offset + taken, left - taken
    if batch:
        yield batch
