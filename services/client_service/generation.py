"""The token loop: bottom, trunk, top, sampler, stop rules; one async generator per request.

Shapes: T rows, D hidden size, V vocabulary.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from client_service.answer import AnswerText, Piece
from client_service.block_names import BlockNames
from client_service.ends import Ends
from client_service.errors import BadRequest, BrokenNumbers, PromptTooLong, RequestError, TooBusy, from_wire
from client_service.metrics import ClientMetrics
from client_service.report import Report
from client_service.sampling import Sampler, SamplingSettings
from client_service.session_run import SessionRun, open_run
from client_service.tokenizer import TextCodec
from client_service.trunk_link import TrunkLink
from splitlearn.errors import BadRows, ContextExceeded, EngineFull, SplitError
from splitlearn_comm import ClientStream, CommError


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate; `max_tokens` None goes on to the end of the context, `param` names the prompt in errors."""

    prompt: tuple[int, ...]
    max_tokens: int | None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: tuple[str, ...] = ()
    param: str | None = None


class Generator:
    """Generates for any number of requests at a time."""

    def __init__(
        self,
        link: TrunkLink,
        codec: TextCodec,
        metrics: ClientMetrics,
        end_tokens: frozenset[int],
        block_names: BlockNames | None,
    ) -> None:
        self._link = link
        self._codec = codec
        self._metrics = metrics
        self._end_tokens = end_tokens
        self._names = block_names

    def check(self, request: GenerationRequest) -> None:
        """Refuses at once what `generate` would refuse at its turn, behind others of the same HTTP request.

        Raises:
            RequestError: the prompt is too long, or no trunk is ready.
        """
        _room(self._link.ends, request)

    async def generate(self, request: GenerationRequest, report: Report) -> AsyncGenerator[Piece]:
        """Yields a piece per token, the last one with a finish reason ("stop" or "length").

        Closing the iterator ends the trunk's session at once.

        Raises:
            RequestError: the prompt is too long, no trunk is ready, or it fails.
        """
        ends = self._link.ends
        room = _room(ends, request)
        budget = min(room, request.max_tokens) if request.max_tokens is not None else room
        report.prompt_tokens = len(request.prompt)
        names = self._block_names(request.prompt)
        try:
            async with open_run(self._link, ends, names, len(request.prompt) + budget, report) as run:
                await run.begin(len(request.prompt))
                ids = list(request.prompt)
                async with aclosing(self._pieces(run, request, ids, budget, report)) as pieces:
                    async for piece in pieces:
                        yield piece
                # the last token was chosen, but never run
                await run.keep(self._block_names(ids[:-1]))
        except CommError as error:
            raise from_wire(error, begun=report.first_token is not None) from error
        except (BadRows, ContextExceeded, EngineFull) as error:
            raise _from_bottom(error, begun=report.first_token is not None) from error

    async def _pieces(
        self, run: SessionRun, request: GenerationRequest, ids: list[int], budget: int, report: Report
    ) -> AsyncGenerator[Piece]:
        """Chooses token after token; `ids` grows by them."""
        sampler = Sampler(request.sampling)
        answer = AnswerText(self._codec.vocabulary, request.prompt, request.stop)
        while True:
            choice = await run.choose(ids, sampler)
            report.completion_tokens += 1
            self._observe(report, run.stream)
            ids.append(choice.token)
            ended, last = choice.token in self._end_tokens, report.completion_tokens == budget
            piece = answer.add(choice, ended=ended, last=last)
            yield piece
            if piece.finish_reason is not None:
                return

    def _block_names(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        return () if self._names is None else self._names.of(ids)

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


def _from_bottom(error: SplitError, *, begun: bool) -> RequestError:
    """What it means that the bottom, or the top for want of room, refused rows; `begun` once a token was chosen."""
    if isinstance(error, EngineFull):
        return TooBusy(str(error), retry_after=error.retry_after)
    if isinstance(error, ContextExceeded):
        return PromptTooLong(str(error))
    if begun:
        return BrokenNumbers(f"the model chose a token that it cannot read: {error}")
    return BadRequest(f"the prompt cannot be read by this model: {error}")


def _room(ends: Ends, request: GenerationRequest) -> int:
    context = ends.bottom.part.context_length
    if context is None:
        return 1 << 20
    if len(request.prompt) >= context:
        raise PromptTooLong(
            f"the prompt has {len(request.prompt)} tokens, but this model's context is {context} tokens, answer "
            "included; shorten the prompt",
            request.param,
        )
    return context - len(request.prompt)
