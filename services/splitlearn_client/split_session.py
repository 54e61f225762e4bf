"""One session in bottom, trunk and top: token ids in, a token out, and a replay when a part has lost its rows.

Shapes: T rows, D hidden size, V vocabulary.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import torch

from splitlearn import errors as split
from splitlearn.engine import Engine, EngineSession, StepResult
from splitlearn_client.errors import TooBusy, TrunkFailed
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.report import Report
from splitlearn_client.sampling import Choice, Sampler
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm import CHUNK_BYTES, ClientStream, CommError, Frame, PositionNotReached

# A part takes a session's pages only for an older session, and each replay makes this one older.
_MOST_REPLAYS = 8
_LOST_ROWS = (PositionNotReached, split.PositionNotReached)
# Frames without a reply: one that the trunk computes, and two that keep it busy during a round trip.
_AHEAD = 3


@dataclass(frozen=True)
class _Sent:
    """A frame that was sent, and how long sending took."""

    position: int
    n_rows: int
    is_first: bool
    seconds: float


@dataclass
class _Choosing:
    """Chooses the token after `ids`, on the device thread, as a part of the top's step."""

    ids: list[int]
    sampler: Sampler
    choice: Choice = field(init=False)
    seconds: float = 0.0

    def __call__(self, logits_V: torch.Tensor) -> None:
        began = time.perf_counter()
        self.choice = self.sampler.choose(logits_V, self.ids)
        self.seconds = time.perf_counter() - began


class SplitSession:
    """Keeps the three parts at the same position. `open_split_session` creates and closes it."""

    def __init__(
        self, parts: LocalParts, bottom: EngineSession, top: EngineSession, stream: ClientStream, report: Report
    ) -> None:
        self.stream = stream
        self._parts = parts
        self._bottom = bottom
        self._top = top
        self._report = report
        self._position = 0
        self._has_sent = False

    async def begin(self, n_ids: int) -> None:
        """Starts after the rows that all three parts have cached; at least one row of `n_ids` remains to run."""
        if self.stream.opening.block_hashes:
            cached = min(self._bottom.reached, self._top.reached, await self.stream.open())
            self._position = min(cached, n_ids - 1)
            self._report.reused_tokens = self._position

    async def choose(self, ids: list[int], sampler: Sampler) -> Choice:
        """Runs the new rows of `ids`, and chooses the next token.

        Raises:
            CommError: the trunk refused or failed.
            TooBusy: parts kept losing their rows.
            BrokenNumbers: the logits hold NaN or infinity.
        """
        for _ in range(_MOST_REPLAYS):
            try:
                return await self._run(ids, _Choosing(ids, sampler))
            except _LOST_ROWS:
                # the ids are enough to compute all rows again in all three parts
                self._position = 0
                self._report.replays += 1
        raise TooBusy("the KV cache is too small for all current requests; try again later", retry_after=5.0)

    async def close_and_cache(self, block_hashes: Sequence[bytes]) -> None:
        """Ends the session, and lets all three parts cache the rows of these blocks."""
        self._parts.bottom.close_and_cache(self._bottom, block_hashes)
        self._parts.top.close_and_cache(self._top, block_hashes)
        if block_hashes:
            # the answer is complete, even if the trunk is gone by now
            with suppress(CommError):
                await self.stream.finish(block_hashes)

    async def _run(self, ids: list[int], choosing: "_Choosing") -> Choice:
        """Sends rows some frames ahead of the replies, so that bottom, trunk and top work at the same time.

        No further ahead: what bottom computes early delays the other requests' next tokens.
        """
        position, owed = self._position, deque[_Sent]()
        try:
            while position < len(ids) or owed:
                if position < len(ids) and len(owed) < _AHEAD:
                    stop = min(len(ids), position + self._rows_at_once())
                    owed.append(await self._send(ids, position, stop))
                    position = stop
                else:
                    await self._receive(owed.popleft(), choosing)
        except _LOST_ROWS:
            await self._take_replies(len(owed))
            raise
        self._position = len(ids)
        self._report.timings["sampling"] += choosing.seconds
        self._report.timings["top"] -= choosing.seconds
        return choosing.choice

    def _rows_at_once(self) -> int:
        """Rows of the next frame: few while other requests of this client decode, so that they wait for few rows."""
        part = self._parts.bottom.part
        most = max(1, CHUNK_BYTES // (part.hidden_size * part.dtype.itemsize))
        return min(most, self._parts.bottom.prefill_chunk_size)

    async def _take_replies(self, count: int) -> None:
        """Receives outstanding replies, so that the next reply belongs to the next frame."""
        for _ in range(count):
            if not self.stream.ended:
                with suppress(CommError):
                    await self.stream.receive()

    async def _send(self, ids: Sequence[int], start: int, stop: int) -> _Sent:
        is_first, self._has_sent = not self._has_sent, True
        step = await self._parts.bottom.step(self._bottom, start, torch.tensor(ids[start:stop]))
        self._count("bottom", step, is_first=is_first)
        began = time.perf_counter()
        await self.stream.send(Frame(start, step.output))
        return _Sent(start, stop - start, is_first, time.perf_counter() - began)

    async def _receive(self, sent: _Sent, choosing: "_Choosing") -> None:
        began = time.perf_counter()
        reply = await self.stream.receive()
        waited = sent.seconds + time.perf_counter() - began
        rows_TD = reply.frame.rows
        if rows_TD is None or (reply.frame.position, rows_TD.shape[0]) != (sent.position, sent.n_rows):
            raise TrunkFailed(f"the trunk did not answer with {sent.n_rows} rows for position {sent.position}")
        seconds = self._report.timings
        seconds["queue"] += reply.queue_seconds
        if sent.is_first:
            self._report.queue_seconds += reply.queue_seconds
        seconds["trunk"] += reply.compute_seconds
        seconds["wire"] += max(0.0, waited - reply.queue_seconds - reply.compute_seconds)
        try:
            is_last = sent.position + sent.n_rows == len(choosing.ids)
            step = await self._parts.top.step(self._top, sent.position, rows_TD, choosing if is_last else None)
        except (split.BadRows, split.ContextExceeded) as error:
            raise TrunkFailed(f"the trunk's reply cannot be used: {error}") from error
        self._count("top", step, is_first=sent.is_first)

    def _count(self, name: str, step: StepResult, *, is_first: bool) -> None:
        self._report.timings[name] += step.timing.compute_seconds
        if is_first:
            self._report.queue_seconds += step.timing.queue_seconds


@asynccontextmanager
async def open_split_session(
    connection: TrunkConnection,
    parts: LocalParts,
    block_hashes: tuple[bytes, ...],
    max_length: int,
    report: Report,
) -> AsyncIterator[SplitSession]:
    """A session of at most `max_length` rows in all three parts, closed in all three at the end.

    Args:
        block_hashes: of the prompt. They go to the trunk only if bottom and top have cached some of the blocks.
    """
    with (
        _session(parts.bottom, max_length, block_hashes) as bottom,
        _session(parts.top, max_length, block_hashes) as top,
    ):
        wanted = block_hashes if bottom.reached and top.reached else ()
        async with connection.open_stream(parts, max_length, wanted) as stream:
            report.session = stream.opening.session_id
            yield SplitSession(parts, bottom, top, stream, report)


@contextmanager
def _session(engine: Engine, max_length: int, block_hashes: tuple[bytes, ...]) -> Iterator[EngineSession]:
    session = engine.open(max_length, block_hashes)
    try:
        yield session
    finally:
        engine.close(session)
