"""The token loop: bottom, trunk, top, sampler, stop rules; one async generator per request.

Shapes: T rows, D hidden size, V vocabulary.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from splitlearn.errors import BadRows, ContextExceeded, EngineFull, SplitError
from splitlearn_client.answer import AnswerText, TokenDelta, TokenLogprob
from splitlearn_client.block_hasher import BlockHasher
from splitlearn_client.errors import BadRequest, BrokenNumbers, PromptTooLong, RequestError, TooBusy, from_wire
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.prompt_scores import PromptScores
from splitlearn_client.prompt_spelling import PromptSpelling
from splitlearn_client.report import Report
from splitlearn_client.sampling import Beginning, Sampler, SamplingSettings
from splitlearn_client.session_stream import SessionStream
from splitlearn_client.split_session import SplitSession, open_split_session
from splitlearn_client.stopping import StopRules
from splitlearn_client.tenant_ids import TenantIds
from splitlearn_client.tokenizer import ChatTokenizer
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm import CommError


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate. `max_tokens` None: up to the end of the context. `param` names the prompt in errors.

    With `echo` the answer begins with the prompt. `prompt_logprobs` is how many likeliest tokens are listed for each of
    the prompt's positions, beside its own; None for no log-probabilities of the prompt.

    `tenant` is the name of whose request it is; empty if nobody is told apart.
    """

    prompt: tuple[int, ...]
    max_tokens: int | None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: StopRules = field(default_factory=StopRules)
    param: str | None = None
    tenant: str = ""
    echo: bool = False
    prompt_logprobs: int | None = None

    @property
    def n_scored(self) -> int | None:
        """How many likeliest tokens are wanted for each of the prompt's positions; None for no log-probabilities."""
        echoed = self.sampling.top_logprobs if self.echo else None
        return max((n for n in (echoed, self.prompt_logprobs) if n is not None), default=None)


class Generator:
    """Generates for any number of concurrent requests."""

    def __init__(
        self,
        connection: TrunkConnection,
        tokenizer: ChatTokenizer,
        metrics: ClientMetrics,
        end_tokens: frozenset[int],
        block_hasher: BlockHasher | None,
    ) -> None:
        self._connection = connection
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._end_tokens = end_tokens
        self._block_hasher = block_hasher
        self._tenant_ids = TenantIds()
        self._spelling = PromptSpelling(tokenizer.vocabulary)

    def check(self, request: GenerationRequest) -> None:
        """Checks at once what `generate` checks only when it starts, after the other prompts of the HTTP request.

        Raises:
            RequestError: the prompt is too long, or no trunk is ready.
        """
        _most_tokens(self._connection.local_parts, request)

    async def generate(self, request: GenerationRequest, report: Report) -> AsyncGenerator[TokenDelta]:
        """Yields one delta per token, after one for the prompt if it is asked for; the last has a finish reason.

        Closing the iterator ends the trunk's session at once.

        Raises:
            RequestError: the prompt is too long, no trunk is ready, or it fails.
        """
        parts = self._connection.local_parts
        most = _most_tokens(parts, request)
        budget = most if request.max_tokens is None else min(most, request.max_tokens)
        report.prompt_tokens = len(request.prompt)
        max_length = len(request.prompt) + budget
        hashes = partial(self._block_hashes, tenant=request.tenant)
        tenant = self._tenant_ids.id_of(request.tenant)
        reuses = request.n_scored is None
        opening = open_split_session(
            self._connection, parts, request.prompt, max_length, hashes, tenant, report, reuses=reuses
        )
        try:
            async with opening as session:
                ids = list(request.prompt)
                async with aclosing(self._deltas(session, request, ids, budget, report)) as deltas:
                    async for delta in deltas:
                        yield delta
                # the last token was chosen, but not run
                await session.close_and_cache(ids[:-1] if budget else ids)
        except CommError as error:
            raise from_wire(error, begun=report.first_token is not None) from error
        except (BadRows, ContextExceeded, EngineFull) as error:
            raise _from_bottom(error, begun=report.first_token is not None) from error

    async def _deltas(
        self, session: SplitSession, request: GenerationRequest, ids: list[int], budget: int, report: Report
    ) -> AsyncGenerator[TokenDelta]:
        """Chooses tokens one by one, and appends them to `ids`."""
        rules = request.stop
        ends = rules.end_tokens(self._end_tokens)
        sampler = Sampler(request.sampling, Beginning(len(request.prompt), rules.min_tokens, ends))
        scores = None if request.n_scored is None else PromptScores(request.prompt, request.n_scored)
        choice = await session.choose(ids, sampler, scores)
        self._observe(report, session.stream)
        offset = 0
        if request.echo or scores is not None:
            delta = await self._prompt_delta(request, scores, is_all=not budget)
            offset = len(delta.text)
            yield delta
        if not budget:
            return
        answer = AnswerText(self._tokenizer.vocabulary, request.prompt, rules, self._end_tokens, offset)
        while True:
            report.completion_tokens += 1
            ids.append(choice.token)
            delta = answer.add(choice, last=report.completion_tokens == budget)
            yield delta
            if delta.finish_reason is not None:
                return
            choice = await session.choose(ids, sampler)
            self._observe(report, session.stream)

    async def _prompt_delta(
        self, request: GenerationRequest, scores: PromptScores | None, *, is_all: bool
    ) -> TokenDelta:
        """The delta about the prompt; with `is_all` nothing follows it."""
        scored = None if scores is None else scores.choices()
        spelled = await self._spelling.delta(request.prompt, scored)
        echoed, listed = request.sampling.top_logprobs, request.prompt_logprobs
        return TokenDelta(
            spelled.text if request.echo else "",
            () if echoed is None or not request.echo else _with_fewer(spelled.logprobs, echoed),
            finish_reason="length" if is_all else None,
            prompt_logprobs=None if listed is None else _with_fewer(spelled.logprobs, listed),
            n_tokens=0,
        )

    def _block_hashes(self, ids: Sequence[int], tenant: str) -> tuple[bytes, ...]:
        return () if self._block_hasher is None else self._block_hasher.hashes(ids, tenant)

    def _observe(self, report: Report, stream: SessionStream) -> None:
        now = time.perf_counter()
        if report.last_token is None:
            report.first_token = now
            self._metrics.time_to_first_token.observe(now - report.began)
        else:
            self._metrics.inter_token.observe(now - report.last_token)
        report.last_token = now
        if report.round_trip is not None:
            self._metrics.round_trip.observe(report.round_trip)
        self._metrics.wire(
            stream.codec,
            sent=stream.bytes_sent - report.wire_bytes_sent,
            received=stream.bytes_received - report.wire_bytes_received,
        )
        report.wire_bytes_sent = stream.bytes_sent
        report.wire_bytes_received = stream.bytes_received


def _with_fewer(entries: Sequence[TokenLogprob], n_alternatives: int) -> tuple[TokenLogprob, ...]:
    # mostly they are as many, and copying each takes long
    return tuple(
        replace(entry, alternatives=entry.alternatives[:n_alternatives])
        if len(entry.alternatives) > n_alternatives
        else entry
        for entry in entries
    )


def _from_bottom(error: SplitError, *, begun: bool) -> RequestError:
    """The request's error for one of the bottom or top engine. `begun`: a token was chosen already."""
    if isinstance(error, EngineFull):
        return TooBusy(str(error), retry_after=error.retry_after)
    if isinstance(error, ContextExceeded):
        return PromptTooLong(str(error))
    if begun:
        return BrokenNumbers(f"the model chose a token that it has no embedding for: {error}")
    return BadRequest(f"the model cannot take this prompt: {error}")


def _most_tokens(parts: LocalParts, request: GenerationRequest) -> int:
    """Output tokens that fit into the context behind the prompt. Raises PromptTooLong."""
    context = parts.bottom.part.context_length
    if context is None:
        return 1 << 20
    if len(request.prompt) >= context:
        raise PromptTooLong(
            f"the prompt has {len(request.prompt)} tokens, but this model's context is {context} tokens, answer "
            "included; shorten the prompt",
            request.param,
        )
    return context - len(request.prompt)
