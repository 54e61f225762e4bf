"""The token loop: bottom, trunk, top, sampler, stop rules; one async generator per request.

Shapes: T rows, D hidden size, V vocabulary.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import torch

from client_service.ends import Ends
from client_service.errors import PromptTooLong, TrunkFailed, from_wire
from client_service.metrics import ClientMetrics
from client_service.sampling import Choice, Sampler, SamplingSettings
from client_service.stopping import StopText
from client_service.tokenizer import TextCodec
from client_service.trunk_link import TrunkLink
from splitlearn.engine import DeviceThread, EngineSession, Step
from splitlearn.errors import SplitError
from splitlearn_comm import CHUNK_BYTES, ClientStream, CommError, Frame


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate; `max_tokens` None goes on to the end of the context."""

    prompt: tuple[int, ...]
    max_tokens: int | None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """What one token added: its text (may be empty while characters or stop strings are incomplete)."""

    text: str
    choice: Choice | None
    finish_reason: str | None = None


@dataclass
class Report:
    """Where one request's time and bytes went; grows while it runs. Seconds unless named otherwise."""

    session: str = ""
    began: float = field(default_factory=time.perf_counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    last_token: float | None = None
    wire_bytes_sent: int = 0
    wire_bytes_received: int = 0
    split: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("bottom", "wire", "queue", "trunk", "top", "sampling"), 0.0)
    )

    @property
    def time_to_first_token(self) -> float:
        return (self.first_token or time.perf_counter()) - self.began

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first."""
        if self.first_token is None or self.last_token is None or self.completion_tokens < 2:
            return 0.0
        return (self.completion_tokens - 1) / (self.last_token - self.first_token)


class Generator:
    """Generates for any number of requests at a time."""

    def __init__(
        self,
        link: TrunkLink,
        codec: TextCodec,
        thread: DeviceThread,
        metrics: ClientMetrics,
        end_tokens: frozenset[int],
    ) -> None:
        self._link = link
        self._codec = codec
        self._thread = thread
        self._metrics = metrics
        self._end_tokens = end_tokens

    async def generate(self, request: GenerationRequest, report: Report) -> AsyncGenerator[Piece]:
        """Yields a piece per token, the last one with a finish reason ("stop" or "length").

        Closing the iterator ends the trunk's session at once.

        Raises:
            RequestError: the prompt is too long, no trunk is ready, or it fails.
        """
        ends = self._link.ends
        room = _room(ends, len(request.prompt))
        budget = min(room, request.max_tokens) if request.max_tokens is not None else room
        report.prompt_tokens = len(request.prompt)
        text = self._codec.decoder(request.prompt)
        stops = StopText(request.stop)
        try:
            async with aclosing(self._tokens(ends, request, budget, report)) as tokens:
                async for choice in tokens:
                    report.completion_tokens += 1
                    ended = choice.token in self._end_tokens
                    certain = "" if ended else stops.feed(text.feed(choice.token))
                    if ended or stops.hit or report.completion_tokens == budget:
                        rest = "" if stops.hit else stops.feed(text.flush()) + stops.flush()
                        yield Piece(certain + rest, choice, "stop" if ended or stops.hit else "length")
                        return
                    yield Piece(certain, choice)
        except CommError as error:
            raise from_wire(error, begun=report.first_token is not None) from error

    async def _tokens(
        self, ends: Ends, request: GenerationRequest, budget: int, report: Report
    ) -> AsyncGenerator[Choice]:
        ids = list(request.prompt)
        sampler = Sampler(request.sampling)
        async with self._link.open_stream(ends, len(ids) + budget) as stream:
            report.session = stream.opening.session_id
            run = _SessionRun(ends, stream, report)
            logits_V = await run.prefill(ids)
            while True:
                choice, timing = await self._thread.run(sampler.choose, logits_V, ids)
                report.split["sampling"] += timing.compute_seconds
                self._observe(report, stream)
                ids.append(choice.token)
                yield choice
                logits_V = await run.decode(choice.token)

    def _observe(self, report: Report, stream: ClientStream) -> None:
        now = time.perf_counter()
        if report.last_token is None:
            report.first_token = now
            self._metrics.time_to_first_token.observe(now - report.began)
        else:
            self._metrics.inter_token.observe(now - report.last_token)
        report.last_token = now
        self._metrics.wire(
            sent=stream.bytes_sent - report.wire_bytes_sent,
            received=stream.bytes_received - report.wire_bytes_received,
        )
        report.wire_bytes_sent = stream.bytes_sent
        report.wire_bytes_received = stream.bytes_received


@dataclass(frozen=True)
class _Sent:
    """A frame on its way."""

    position: int
    n_rows: int
    at: float


class _SessionRun:
    """One session across bottom, trunk and top, and the next position in all three."""

    def __init__(self, ends: Ends, stream: ClientStream, report: Report) -> None:
        self._ends = ends
        self._stream = stream
        self._report = report
        self._bottom: EngineSession = ends.bottom.open()
        self._top: EngineSession = ends.top.open()
        self._position = 0
        self._away: asyncio.Queue[_Sent] = asyncio.Queue()

    async def prefill(self, ids: list[int]) -> torch.Tensor:
        """Logits [V] after the prompt. Chunks flow without waiting: bottom, trunk and top work side by side."""
        part = self._ends.bottom.part
        size = max(1, CHUNK_BYTES // (part.hidden_size * part.dtype.itemsize))
        starts = range(0, len(ids), size)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_chunks(ids, starts, size))
                for _ in starts:
                    logits_V = await self._receive()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        self._position = len(ids)
        return logits_V

    async def decode(self, token: int) -> torch.Tensor:
        """Logits [V] after one more token."""
        await self._send([token], self._position)
        logits_V = await self._receive()
        self._position += 1
        return logits_V

    async def _send_chunks(self, ids: list[int], starts: range, size: int) -> None:
        for start in starts:
            await self._send(ids[start : start + size], start)

    async def _send(self, ids: list[int], position: int) -> None:
        step = await self._ends.bottom.step(self._bottom, position, torch.tensor(ids))
        self._count("bottom", step)
        sent = _Sent(position, len(ids), time.perf_counter())
        await self._stream.send(Frame(position, step.output))
        self._away.put_nowait(sent)

    async def _receive(self) -> torch.Tensor:
        # the trunk's time to answer runs only once a frame is away: the bottom may be busy with other requests
        sent = await self._away.get()
        reply = await self._stream.receive()
        rows_TD = reply.frame.rows
        if rows_TD is None or (reply.frame.position, rows_TD.shape[0]) != (sent.position, sent.n_rows):
            raise TrunkFailed(f"the trunk did not answer with {sent.n_rows} rows for position {sent.position}")
        away = time.perf_counter() - sent.at
        split = self._report.split
        split["queue"] += reply.queue_seconds
        split["trunk"] += reply.compute_seconds
        split["wire"] += max(0.0, away - reply.queue_seconds - reply.compute_seconds)
        try:
            step = await self._ends.top.step(self._top, sent.position, rows_TD)
        except SplitError as error:
            raise TrunkFailed(f"the trunk's reply cannot be used: {error}") from error
        self._count("top", step)
        return step.output

    def _count(self, name: str, step: Step) -> None:
        self._report.split[name] += step.timing.compute_seconds


def _room(ends: Ends, prompt_tokens: int) -> int:
    context = ends.bottom.part.context_length
    if context is None:
        return 1 << 20
    if prompt_tokens >= context:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens, but this model's context is {context} tokens, answer included; "
            "shorten the prompt"
        )
    return context - prompt_tokens
