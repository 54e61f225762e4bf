"""One session across bottom, trunk and top: rows in, logits out, and everything again when a part lost its rows.

Shapes: T rows, D hidden size, V vocabulary.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import torch

from client_service.ends import Ends
from client_service.errors import TooBusy, TrunkFailed
from client_service.report import Report
from client_service.trunk_link import TrunkLink
from splitlearn import errors as split
from splitlearn.engine import Engine, EngineSession, Step
from splitlearn_comm import CHUNK_BYTES, ClientStream, CommError, Frame, PositionNotReached

# A part loses its rows when its memory is short, and to older sessions only: each replay makes this one older.
_MOST_REPLAYS = 8
_LOST_ROWS = (PositionNotReached, split.PositionNotReached)


@dataclass(frozen=True)
class _Sent:
    """A frame on its way."""

    position: int
    n_rows: int
    at: float


class SessionRun:
    """Keeps the three parts at the same position. Made by `open_run`, which closes it."""

    def __init__(
        self, ends: Ends, bottom: EngineSession, top: EngineSession, stream: ClientStream, report: Report
    ) -> None:
        self.stream = stream
        self._ends = ends
        self._bottom = bottom
        self._top = top
        self._report = report
        self._position = 0
        self._away: asyncio.Queue[_Sent | None] = asyncio.Queue()
        self._halted = False

    async def begin(self, n_ids: int) -> None:
        """Goes on behind what all three parts have kept of earlier sessions; at least one row is left to run."""
        if self.stream.opening.prefix:
            kept = min(self._bottom.reached, self._top.reached, await self.stream.open())
            self._position = min(kept, n_ids - 1)
            self._report.reused_tokens = self._position

    async def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Runs what is new in `ids` and gives the logits [V] after the last of them.

        Raises:
            CommError: the trunk refused or failed.
            TooBusy: a part lost its rows again and again.
        """
        for _ in range(_MOST_REPLAYS):
            try:
                return await self._run(ids)
            except _LOST_ROWS:
                # ids are all that is needed to begin again, in all three parts
                self._position = 0
                self._report.replays += 1
        raise TooBusy("memory for keys and values is too short for all who ask now; try again later", retry_after=5.0)

    async def keep(self, names: Sequence[bytes]) -> None:
        """Lets all three parts keep the blocks of these names; nothing can be run after it."""
        self._ends.bottom.keep(self._bottom, names)
        self._ends.top.keep(self._top, names)
        if names:
            await self.stream.keep(names)

    async def _run(self, ids: Sequence[int]) -> torch.Tensor:
        part = self._ends.bottom.part
        size = max(1, CHUNK_BYTES // (part.hidden_size * part.dtype.itemsize))
        starts = range(self._position, len(ids), size)
        if len(starts) == 1:
            logits_V = await self._receive(await self._send(ids, starts[0], len(ids)))
        else:
            logits_V = await self._pipelined(ids, starts)
        self._position = len(ids)
        return logits_V

    async def _pipelined(self, ids: Sequence[int], starts: range) -> torch.Tensor:
        """Chunks flow without waiting: bottom, trunk and top work side by side."""
        self._halted = False
        sending = asyncio.create_task(self._send_chunks(ids, starts))
        logits_V = torch.empty(0)
        try:
            while (sent := await self._away.get()) is not None:
                logits_V = await self._receive(sent)
            # raises what stopped it
            await sending
        except _LOST_ROWS:
            await self._drain(sending)
            raise
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({sending})
        return logits_V

    async def _send_chunks(self, ids: Sequence[int], starts: range) -> None:
        try:
            for start in starts:
                if self._halted:
                    return
                self._away.put_nowait(await self._send(ids, start, min(start + starts.step, len(ids))))
        finally:
            self._away.put_nowait(None)

    async def _drain(self, sending: "asyncio.Task[None]") -> None:
        """Takes the replies that are still owed, so that the next one belongs to the next frame."""
        self._halted = True
        await asyncio.wait({sending})
        while not self._away.empty():
            if self._away.get_nowait() is not None and not self.stream.ended:
                with suppress(CommError):
                    await self.stream.receive()

    async def _send(self, ids: Sequence[int], start: int, stop: int) -> _Sent:
        step = await self._ends.bottom.step(self._bottom, start, torch.tensor(ids[start:stop]))
        self._count("bottom", step)
        sent = _Sent(start, stop - start, time.perf_counter())
        await self.stream.send(Frame(start, step.output))
        return sent

    async def _receive(self, sent: _Sent) -> torch.Tensor:
        reply = await self.stream.receive()
        rows_TD = reply.frame.rows
        if rows_TD is None or (reply.frame.position, rows_TD.shape[0]) != (sent.position, sent.n_rows):
            raise TrunkFailed(f"the trunk did not answer with {sent.n_rows} rows for position {sent.position}")
        away = time.perf_counter() - sent.at
        seconds = self._report.split
        seconds["queue"] += reply.queue_seconds
        seconds["trunk"] += reply.compute_seconds
        seconds["wire"] += max(0.0, away - reply.queue_seconds - reply.compute_seconds)
        try:
            step = await self._ends.top.step(self._top, sent.position, rows_TD)
        except (split.BadRows, split.ContextExceeded) as error:
            raise TrunkFailed(f"the trunk's reply cannot be used: {error}") from error
        self._count("top", step)
        return step.output

    def _count(self, name: str, step: Step) -> None:
        self._report.split[name] += step.timing.compute_seconds


@asynccontextmanager
async def open_run(
    link: TrunkLink, ends: Ends, names: tuple[bytes, ...], max_length: int, report: Report
) -> AsyncIterator[SessionRun]:
    """A session of at most `max_length` rows in all three parts, closed in all three at the end.

    Args:
        names: of the blocks of the prompt; the trunk is asked for them only if both ends have kept some.
    """
    with _session(ends.bottom, max_length, names) as bottom, _session(ends.top, max_length, names) as top:
        asked = names if bottom.reached and top.reached else ()
        async with link.open_stream(ends, max_length, asked) as stream:
            report.session = stream.opening.session_id
            yield SessionRun(ends, bottom, top, stream, report)


@contextmanager
def _session(engine: Engine, max_length: int, names: tuple[bytes, ...]) -> Iterator[EngineSession]:
    session = engine.open(max_length, names)
    try:
        yield session
    finally:
        engine.close(session)
