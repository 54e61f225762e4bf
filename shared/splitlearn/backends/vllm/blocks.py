"""Which blocks of vLLM's cache hold the rows of each session. Plain integers: the tensors are vLLM's.

Sessions that begin alike share blocks. A block that several sessions hold is copied before one of them writes to it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.errors import NoRoom, PositionNotReached, SessionClosed

NULL_BLOCK = 0
"""Belongs to no session: vLLM fills its tables with it."""


@dataclass(frozen=True)
class CacheSize:
    """The memory for keys and values, as vLLM allocated it.

    Attributes:
        n_blocks: with the null block.
        block_rows: rows of one session in a block.
        row_bytes: of one row, in all workers together.
        max_session_rows: rows that vLLM lets a session hold.
    """

    n_blocks: int
    block_rows: int
    row_bytes: int
    max_session_rows: int


@dataclass(eq=False)
class SessionBlocks:
    """Where the rows of one session are.

    Attributes:
        n_rows: rows that it holds.
        blocks: in the order of its rows; as many as `n_rows` take.
        request: the name under which vLLM knows it; None if it does not, or knows other blocks or more rows.
        n_known: of its blocks those that vLLM was told.
        rows_after_release: None until it is released; then the rows that it still has.
    """

    n_rows: int = 0
    blocks: list[int] = field(default_factory=list)
    request: str | None = None
    n_known: int = 0
    rows_after_release: int | None = None

    def check(self, position: int) -> None:
        """Passes if rows may follow its first `position` rows.

        Raises:
            PositionNotReached: it holds fewer.
            SessionClosed: it was released.
        """
        if self.rows_after_release is not None:
            raise SessionClosed("the keys and values of this session were released: it takes no more rows")
        if position > self.n_rows:
            raise PositionNotReached(f"the session holds {self.n_rows} rows, not {position}: send them again from 0")


class BlockPool:
    """The blocks of one part. One thread uses it; any thread may call `release`.

    Args:
        n_blocks: of vLLM's cache, with the null block.
        block_rows: rows of one session that a block holds.

    Attributes:
        finished: names of requests that vLLM is to forget.
    """

    def __init__(self, n_blocks: int, block_rows: int) -> None:
        self.total, self.block_rows = n_blocks - 1, block_rows
        self.finished: set[str] = set()
        self._free = list(range(n_blocks - 1, NULL_BLOCK, -1))
        # how many sessions hold each block that is not free
        self._holders: dict[int, int] = {}
        self._released: deque[tuple[SessionBlocks, int]] = deque()

    @property
    def n_free(self) -> int:
        return len(self._free)

    def blocks_for(self, n_rows: int) -> int:
        return -(-n_rows // self.block_rows)

    def release(self, session: SessionBlocks, n_rows: int = 0) -> None:
        """Gives up all but its first `n_rows` rows, at the next `collect`; it takes no more of them."""
        session.rows_after_release = n_rows
        self._released.append((session, n_rows))

    def collect(self) -> None:
        """Frees what was released."""
        while self._released:
            session, n_rows = self._released.popleft()
            self.truncate(session, n_rows)
            self.forget(session)

    def truncate(self, session: SessionBlocks, position: int) -> None:
        """Keeps at most the first `position` rows, and the blocks that they take."""
        if position >= session.n_rows:
            return
        self.forget(session)
        session.n_rows = position
        kept = self.blocks_for(position)
        for block in session.blocks[kept:][::-1]:
            self._give_back(block)
        del session.blocks[kept:]

    def forget(self, session: SessionBlocks) -> None:
        """vLLM is to be told of the session anew, before its next rows."""
        if session.request is not None:
            self.finished.add(session.request)
        session.request, session.n_known = None, 0

    def share(self, session: SessionBlocks, other: SessionBlocks, n_rows: int) -> None:
        """Lets `session` begin with the first `n_rows` rows of `other`, in the same blocks.

        Raises:
            PositionNotReached: `other` does not hold them, or was released without them.
        """
        self.collect()
        if other.n_rows < n_rows:
            raise PositionNotReached("the cached rows were evicted for others: send everything again from 0")
        session.check(0)
        self.truncate(session, 0)
        session.blocks = other.blocks[: self.blocks_for(n_rows)]
        session.n_rows = n_rows
        for block in session.blocks:
            self._holders[block] += 1

    def reserve(self, slices: Sequence[SequenceSlice[SessionBlocks]]) -> dict[int, int]:
        """Truncates each session to its slice's start, and takes blocks for the slice.

        Returns:
            Blocks that have to be copied before anything is written, and where to; by their new places.

        Raises:
            NoRoom: there are too few blocks; no session has more than it had.
            PositionNotReached, SessionClosed: of `SessionBlocks.check`; no session was changed.
        """
        self.collect()
        for session, start, _ in slices:
            session.check(start)
        for session, start, _ in slices:
            self.truncate(session, start)
        leaving: dict[int, int] = {}
        wanted = 0
        for session, start, length in slices:
            wanted += self.blocks_for(start + length) - len(session.blocks)
            shared = self._written_while_shared(session, start, leaving)
            if shared is not None:
                leaving[shared] = leaving.get(shared, 0) + 1
        wanted += sum(leaving.values())
        if wanted > self.n_free:
            raise NoRoom(f"{wanted} blocks are wanted, {self.n_free} of {self.total} are free: release sessions first")
        copies: dict[int, int] = {}
        for session, start, length in slices:
            shared = self._written_while_shared(session, start, {})
            if shared is not None:
                self.forget(session)
                own = self._take()
                copies[own] = shared
                session.blocks[-1] = own
                self._give_back(shared)
            more = self.blocks_for(start + length) - len(session.blocks)
            session.blocks += [self._take() for _ in range(more)]
            session.n_rows = start + length
        return copies

    def _written_while_shared(self, session: SessionBlocks, start: int, leaving: dict[int, int]) -> int | None:
        """The session's last block, if its next row goes there and others hold it that do not leave it before."""
        if not start % self.block_rows:
            return None
        last = session.blocks[-1]
        return last if self._holders[last] - leaving.get(last, 0) > 1 else None

    def _take(self) -> int:
        block = self._free.pop()
        self._holders[block] = 1
        return block

    def _give_back(self, block: int) -> None:
        self._holders[block] -= 1
        if not self._holders[block]:
            del self._holders[block]
            self._free.append(block)

    def check_consistency(self, sessions: Sequence[SessionBlocks]) -> str | None:
        """What is inconsistent if just these sessions hold blocks; None if nothing is."""
        held: dict[int, int] = {}
        for session in sessions:
            if len(session.blocks) != self.blocks_for(session.n_rows):
                return f"{session} holds {len(session.blocks)} blocks for {session.n_rows} rows"
            for block in session.blocks:
                held[block] = held.get(block, 0) + 1
        if held != self._holders:
            return f"sessions hold {held}, the pool counts {self._holders}"
        return None if len(held) + self.n_free == self.total else f"{self.n_free} of {self.total} blocks are free"
