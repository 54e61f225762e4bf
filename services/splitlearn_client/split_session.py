"""One session in bottom, trunk and top: token ids in, a token out, and a replay when a part has lost its rows.

The ids are enough to compute all rows again, on any replica of the trunk.

Shapes: T rows, D hidden size, V vocabulary.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import torch

from splitlearn import errors as split
from splitlearn.engine import Engine, EngineSession, Speculation, StepResult
from splitlearn_client.choosing import Choosing, PromptReader
from splitlearn_client.errors import TooBusy, TrunkNotReady
from splitlearn_client.link_speed import FrameTrip, LinkSpeed
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.report import Report
from splitlearn_client.sampling import Choice, Sampler
from splitlearn_client.session_stream import SessionStream
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm import CHUNK_BYTES, CommError, Frame, InvalidReply, PositionNotReached, SessionOpening, TimedOut
from splitlearn_comm.replicas.replica import Replica

BlockHashes = Callable[[Sequence[int]], tuple[bytes, ...]]
"""The hashes of the blocks of these ids; none if nothing is cached."""

# A part takes a session's pages only for an older session, and each replay makes this one older.
_MOST_REPLAYS = 8
_LOST_ROWS = (PositionNotReached, split.PositionNotReached)
# Steps of the trunk whose rows have no reply: one that it computes, and two that keep it busy during a round trip.
_AHEAD = 3
# The same in frames, where those are short.
_MOST_FRAMES_AHEAD = 24


@dataclass(frozen=True)
class _Sent:
    """A frame that was sent, and how many seconds sending took."""

    position: int
    n_rows: int
    n_bytes: int
    is_first: bool
    is_alone: bool
    """Whether no other frame was on its way, so that its reply waits for nothing but its own rows."""
    began: float
    """When sending began, by the event loop's clock."""
    seconds: float


@dataclass(frozen=True)
class Trip:
    """What came of some rows, in the last of all attempts.

    Attributes:
        choices: one of each sampler; with guesses the next token, and those behind guesses that were right.
        n_guesses: guesses that ran.
        n_rows: rows that ran, without those of guesses.
    """

    choices: list[Choice]
    n_guesses: int
    n_rows: int


class SplitSession:
    """Keeps the three parts at the same position. `open_split_session` creates, begins and closes it."""

    def __init__(
        self,
        parts: LocalParts,
        bottom: EngineSession,
        top: EngineSession,
        stream: SessionStream,
        block_hashes: BlockHashes,
        report: Report,
        link_to: Callable[[Replica], LinkSpeed],
    ) -> None:
        self.stream = stream
        self._link_to = link_to
        self._link = link_to(stream.replica)
        self._block_hashes = block_hashes
        self._parts = parts
        self._bottom = bottom
        self._top = top
        self._report = report
        self._position = 0
        self._has_sent = False

    async def begin(self, ids: Sequence[int]) -> None:
        """Starts after the rows that all three parts have cached; at least one row of `ids` remains to run.

        Raises:
            CommError: no replica took the session.
        """
        await self._open(ids)
        self._report.reused_tokens = self._position

    @property
    def speculation(self) -> Speculation:
        """Whether guesses can run behind the session's rows, in all three parts as they are now."""
        engines = self._parts.bottom.speculation, self._parts.top.speculation
        return Speculation.of(*engines, self.stream.speculation)

    @property
    def n_others(self) -> int:
        """Sessions that may share its steps, here or on the trunk."""
        return max(self._parts.bottom.n_running, self.stream.n_sessions, 1) - 1

    def n_free_rows(self, n_ids: int) -> int:
        """Rows that all three parts can hold behind so many ids."""
        return min(self._bottom.max_length, self._top.max_length, self.stream.max_session_rows) - n_ids

    async def choose(self, ids: list[int], sampler: Sampler, guesses: Sequence[int] = (), n_padding: int = 0) -> Trip:
        """As `choose_each`, with one sampler: the next token, and those behind guesses that were right.

        Args:
            guesses: what may follow `ids`, of which one row is new; fewer than a step's rows, and no more than are
                free. A session that has to run other rows too, or fails over, does without them.
            n_padding: rows that fill the frame up behind the guesses, under the same conditions.
        """
        return await self._choose(ids, [sampler], None, guesses, n_padding)

    async def choose_each(
        self,
        ids: list[int],
        samplers: Sequence[Sampler],
        reader: PromptReader | None = None,
    ) -> list[Choice]:
        """Runs the new rows of `ids`, and each sampler chooses a next token. A replica that fails is replaced.

        `reader` gets all rows that run: those of the whole prompt if the session has begun without cached rows.

        Raises:
            CommError: the trunk refused the rows, or no replica could go on in time.
            TooBusy: parts kept losing their rows.
            BrokenNumbers: the logits hold NaN or infinity.
            BadRequest: no token may come next.
        """
        return (await self._choose(ids, samplers, reader)).choices

    async def _choose(
        self,
        ids: list[int],
        samplers: Sequence[Sampler],
        reader: PromptReader | None,
        guesses: Sequence[int] = (),
        n_padding: int = 0,
    ) -> Trip:
        n_lost = 0
        for sampler in samplers:
            if sampler.matcher is not None:
                sampler.matcher.look_ahead(guesses)
        while True:
            try:
                n_rows = len(ids) - self._position
                tried = guesses if n_rows == 1 else ()
                padding = n_padding if n_rows == 1 else 0
                choices = await self._run(Choosing(ids, samplers, reader, tried, padding))
            except _LOST_ROWS:
                n_lost += 1
                if n_lost == _MOST_REPLAYS:
                    message = "the KV cache is too small for all current requests; try again later"
                    raise TooBusy(message, retry_after=5.0) from None
                self._position = 0
                self._report.replays += 1
                self._expect_prompt()
            except CommError as error:
                # another replica may not allow them
                guesses, n_padding = (), 0
                await self._fail_over(error, ids)
                await self._open(ids)
            else:
                self.stream.resumed()
                return Trip(choices, len(tried), n_rows)

    async def read(self, ids: list[int], reader: PromptReader) -> None:
        """Runs the new rows of `ids` for the reader alone; no token is chosen. Raises as `choose_each`."""
        await self.choose_each(ids, (), reader)

    async def close_and_cache(self, ids: Sequence[int]) -> None:
        """Ends the session, and lets all three parts cache the rows of these ids."""
        block_hashes = self._block_hashes(ids)
        self._parts.bottom.close_and_cache(self._bottom, block_hashes)
        self._parts.top.close_and_cache(self._top, block_hashes)
        if block_hashes:
            await self.stream.finish(block_hashes)

    async def _open(self, ids: Sequence[int]) -> None:
        """Opens the session on some replica, and goes on behind the rows that all three parts hold."""
        while True:
            try:
                cached = await self.stream.open()
            except CommError as error:
                await self._fail_over(error, ids)
            else:
                self._position = min(self._bottom.reached, self._top.reached, cached, len(ids) - 1)
                return

    async def _fail_over(self, error: CommError, ids: Sequence[int]) -> None:
        self._expect_prompt()
        if isinstance(error, TimedOut):
            self._link.forget()

        def block_hashes() -> tuple[bytes, ...]:
            # of use only where bottom and top need not compute the rows again either
            return self._block_hashes(ids) if self._bottom.reached and self._top.reached else ()

        await self.stream.fail_over(error, block_hashes)
        self._link = self._link_to(self.stream.replica)

    def _expect_prompt(self) -> None:
        """All rows will be computed again, which takes as long as a prompt: others need not wait for the next token."""
        self._parts.bottom.expect_prompt(self._bottom)
        self._parts.top.expect_prompt(self._top)

    async def _run(self, choosing: Choosing) -> list[Choice]:
        """Sends rows some frames ahead of the replies, so that bottom, trunk and top work at the same time.

        No further ahead: what bottom computes early delays the other requests' next tokens.
        """
        position, end, owed = self._position, choosing.end, deque[_Sent]()
        is_prompt = end - position > 1 + choosing.n_behind
        try:
            with self._link.prompt() if is_prompt else nullcontext():
                while position < end or owed:
                    n_rows, n_ahead = self._pace(choosing, end - position)
                    if n_rows and len(owed) < n_ahead:
                        stop = position + n_rows
                        owed.append(await self._send(choosing.tokens(position, stop), position, is_alone=not owed))
                        position = stop
                    else:
                        sent = owed.popleft()
                        await self._receive(sent, choosing, is_alone=sent.is_alone and not owed)
        except _LOST_ROWS:
            await self._take_replies(len(owed))
            raise
        # rows of wrong guesses and padding are still there, and the next frame's position drops them
        self._position = len(choosing.ids) + (len(choosing.choices) - 1 if choosing.n_behind else 0)
        self._report.timings["sampling"] += choosing.seconds
        self._report.timings["top"] -= choosing.seconds
        return choosing.choices

    def _pace(self, choosing: Choosing, n_left: int) -> tuple[int, int]:
        """Rows of the next frame, of so many that are left, and how many frames may be without a reply."""
        if choosing.n_behind:
            # in one frame with the row before them, as the top has to give the logits of all
            return min(1 + choosing.n_behind, n_left), _AHEAD
        if n_left <= 1:
            # the next token, which nothing is ahead of, or the end of a prompt
            return n_left, _MOST_FRAMES_AHEAD
        most = self._rows_at_once(choosing)
        part = self._parts.bottom.part
        n_rows = self._link.rows_at_once(most, part.hidden_size * part.dtype.itemsize)
        if n_rows < most and not self._link.is_known:
            # its reply says how many rows to send next
            return min(n_rows, n_left), 1
        return min(n_rows, n_left), min(_AHEAD * most // n_rows, _MOST_FRAMES_AHEAD)

    def _rows_at_once(self, choosing: Choosing) -> int:
        """Rows of a step: few while other requests of this client decode, so that they wait for few rows."""
        part = self._parts.bottom.part
        most = max(1, CHUNK_BYTES // (part.hidden_size * part.dtype.itemsize))
        if choosing.reader is not None:
            most = min(most, choosing.reader.rows_at_once(part.config.get_text_config(decoder=True).vocab_size))
        return min(most, self._parts.bottom.prefill_chunk_size)

    async def _take_replies(self, count: int) -> None:
        """Receives outstanding replies, so that the next reply belongs to the next frame."""
        for _ in range(count):
            if not self.stream.ended:
                with suppress(CommError):
                    await self.stream.receive()

    async def _send(self, ids_T: torch.Tensor, start: int, *, is_alone: bool) -> _Sent:
        is_first, self._has_sent = not self._has_sent, True
        step = await self._parts.bottom.step(self._bottom, start, ids_T)
        self._count("bottom", step, is_first=is_first)
        began, n_bytes = _now(), self.stream.bytes_sent
        await self.stream.send(Frame(start, step.output))
        n_bytes = self.stream.bytes_sent - n_bytes
        return _Sent(start, ids_T.shape[0], n_bytes, is_first, is_alone, began, _now() - began)

    async def _receive(self, sent: _Sent, choosing: Choosing, *, is_alone: bool) -> None:
        began = _now()
        reply = await self.stream.receive()
        waited = sent.seconds + _now() - began
        rows_TD = reply.frame.rows
        if rows_TD is None or (reply.frame.position, rows_TD.shape[0]) != (sent.position, sent.n_rows):
            raise InvalidReply(f"the trunk did not answer with {sent.n_rows} rows for position {sent.position}")
        seconds = self._report.timings
        seconds["queue"] += reply.queue_seconds
        if sent.is_first:
            self._report.queue_seconds += reply.queue_seconds
        seconds["trunk"] += reply.compute_seconds
        on_the_wire = max(0.0, waited - reply.queue_seconds - reply.compute_seconds)
        seconds["wire"] += on_the_wire
        self._report.round_trip = on_the_wire if is_alone else None
        if sent.is_alone:
            # a frame behind it takes nothing from it, neither on the way there nor in the trunk; but its reply may have
            # come before it was waited for
            under_way = self.stream.received_at - sent.began - reply.queue_seconds - reply.compute_seconds
            # the reply's rows take as many bytes
            self._link.learn(FrameTrip(sent.n_rows, 2 * sent.n_bytes, max(0.0, under_way), reply.compute_seconds))
        try:
            is_last = sent.position + sent.n_rows == choosing.end
            if is_last:
                await choosing.ready()
            last, reader = choosing if is_last else None, choosing.row_reader
            n_likeliest = choosing.n_likeliest if is_last else None
            step = await self._parts.top.step(self._top, sent.position, rows_TD, last, reader, n_likeliest)
        except (split.BadRows, split.ContextExceeded) as error:
            raise InvalidReply(f"the trunk's reply cannot be used: {error}") from error
        self._count("top", step, is_first=sent.is_first)

    def _count(self, name: str, step: StepResult, *, is_first: bool) -> None:
        self._report.timings[name] += step.timing.compute_seconds
        if is_first:
            self._report.queue_seconds += step.timing.queue_seconds


def _now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def open_split_session(
    connection: TrunkConnection,
    parts: LocalParts,
    ids: Sequence[int],
    max_length: int,
    block_hashes: Callable[[Sequence[int], str], tuple[bytes, ...]],
    tenant: str,
    report: Report,
    *,
    reuses: bool = True,
) -> AsyncIterator[SplitSession]:
    """A session of at most `max_length` rows in all three parts, closed in all three at the end.

    Args:
        ids: the prompt.
        block_hashes: the hashes of the blocks of some ids, whose rows have this codec on the wire. They go to the trunk
            only if bottom and top have cached some of the blocks.
        tenant: an opaque id of whose session it is; see `splitlearn_client.tenant_ids`.
        reuses: whether the session may begin with rows that are cached.

    Raises:
        TrunkNotReady: no replica takes sessions.
        CommError: see `SplitSession`.
    """
    replica = connection.replicas.pick()
    if replica is None:
        raise TrunkNotReady(connection.not_ready_reason or "no replica of the trunk takes sessions")
    codec = connection.codec_to(replica)

    def hashes_of(some_ids: Sequence[int]) -> tuple[bytes, ...]:
        return block_hashes(some_ids, codec)

    # all three parts agree which session is older, or two could wait for each other's memory in different parts
    hashes, opened_at = hashes_of(ids) if reuses else (), connection.next_opening()
    with (
        _session(parts.bottom, max_length, hashes, tenant, opened_at) as bottom,
        _session(parts.top, max_length, hashes, tenant, opened_at) as top,
    ):
        wanted = hashes if bottom.reached and top.reached else ()
        opening = SessionOpening(
            report.session,
            parts.fingerprint,
            max_length,
            codec,
            wanted,
            opened_at,
            tenant,
            context=report.context,
        )
        async with SessionStream(connection.replicas, replica, opening, connection.failover_timeout, report) as stream:
            session = SplitSession(parts, bottom, top, stream, hashes_of, report, connection.link_to)
            await session.begin(ids)
            yield session


@contextmanager
def _session(
    engine: Engine, max_length: int, block_hashes: tuple[bytes, ...], tenant: str, opened_at: float
) -> Iterator[EngineSession]:
    session = engine.open(max_length, block_hashes, (tenant,), opened_at)
    try:
        yield session
    finally:
        engine.close(session)
