"""The token loop: bottom, trunk, top, sampler, stop rules; one async generator per request.

Shapes: T rows, D hidden size, V vocabulary.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Final

import structlog

from splitlearn.engine import Speculation
from splitlearn_client.answer import AnswerText, TokenDelta, TokenLogprob
from splitlearn_client.choices import merged
from splitlearn_client.errors import PromptTooLong
from splitlearn_client.frame_shape import FrameShape
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.logits_processors import Beginning
from splitlearn_client.prompt_scores import PromptScores
from splitlearn_client.prompt_spelling import PromptSpelling
from splitlearn_client.report import Report
from splitlearn_client.sampling import Choice, Sampler, SamplingSettings
from splitlearn_client.session_stream import SessionStream
from splitlearn_client.sessions import Sessions
from splitlearn_client.speculation.speculator import Speculator, Speculators
from splitlearn_client.split_session import SplitSession
from splitlearn_client.stopping import StopRules
from splitlearn_client.structured.matcher import Grammar
from splitlearn_client.text.vocabulary import Vocabulary
from splitlearn_client.tokenizer import ChatTokenizer

log = structlog.get_logger()

# of one prompt; the others begin as these end, so that one request takes few sessions
_ANSWERS_AT_ONCE: Final = 8


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate. `max_tokens` None: up to the end of the context. `param` names the prompt in errors.

    With `echo` the answer begins with the prompt. `prompt_logprobs` is how many likeliest tokens are listed for each of
    the prompt's positions, beside its own; None for no log-probabilities of the prompt. The answer follows `grammar`,
    and ends where that allows nothing more. The names of hidden tokens that are `shown` are in its text.

    `tenant` is the name of whose request it is; empty if nobody is told apart. Its requests share cached rows only with
    those of the same `cache_salt`.
    """

    prompt: tuple[int, ...]
    max_tokens: int | None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: StopRules = field(default_factory=StopRules)
    param: str | None = None
    tenant: str = ""
    echo: bool = False
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    shown: frozenset[int] = frozenset()
    cache_salt: str = ""

    @property
    def n_scored(self) -> int | None:
        """How many likeliest tokens are wanted for each of the prompt's positions; None for no log-probabilities."""
        echoed = self.sampling.top_logprobs if self.echo else None
        return max((n for n in (echoed, self.prompt_logprobs) if n is not None), default=None)


class _Answer:
    """One answer to a request: its tokens so far, and how the next one is chosen.

    Args:
        number: among the answers to the prompt.
        budget: tokens that it has at most.
        end_tokens: the model's own.
        speculator: guesses its next tokens; None for no guesses.
    """

    def __init__(
        self,
        request: GenerationRequest,
        number: int,
        budget: int,
        vocabulary: Vocabulary,
        end_tokens: frozenset[int],
        report: Report,
        speculator: Speculator | None,
    ) -> None:
        self.request, self.budget, self.report = request, budget, report
        self.speculator = speculator
        self.first_frame_at: float | None = None
        self.ids = list(request.prompt)
        rules, sampling = request.stop, request.sampling
        self._ends = rules.end_tokens(end_tokens)
        self._matcher = None if request.grammar is None else request.grammar.matcher(self._ends)
        beginning = Beginning(len(request.prompt), rules.min_tokens, self._ends)
        seed = None if sampling.seed is None else _seed(sampling.seed, number)
        self.sampler = Sampler(replace(sampling, seed=seed), beginning, self._matcher)
        self._text = AnswerText(vocabulary, request.prompt, rules, end_tokens, request.shown)

    @property
    def has_begun(self) -> bool:
        """Whether it has a token."""
        return len(self.ids) > len(self.request.prompt)

    @property
    def most_rows(self) -> int:
        """Rows that its session may ever hold."""
        return len(self.request.prompt) + self.budget

    async def guesses(self, session: SplitSession) -> Sequence[int]:
        """Guesses at the next tokens, as many as pay and as the session can hold."""
        if self.speculator is None:
            return ()
        # behind the last token nothing is of use
        n_useful = self.budget - self.report.completion_tokens - 1
        most = min(n_useful, session.n_free_rows(len(self.ids)))
        guesses = await self.speculator.guesses(self.ids, most, session.n_others)
        guesses = tuple(takewhile(lambda token: token not in self._ends, guesses))
        if guesses and self._matcher is not None:
            guesses = guesses[: await self._matcher.allowed(guesses)]
        return guesses

    async def aclose(self) -> None:
        """Frees what guesses its tokens."""
        if self.speculator is not None:
            await self.speculator.aclose()

    def begin(self, prompt: TokenDelta) -> TokenDelta:
        """The delta about the prompt, behind whose text the answer's goes on."""
        self._text.offset = len(prompt.text)
        return prompt

    async def add(self, choice: Choice) -> TokenDelta:
        """Appends a token. Raises GrammarFailed."""
        self.report.completion_tokens += 1
        n_tokens, is_complete = self.report.completion_tokens, False
        self.ids.append(choice.token)
        if self._matcher is not None and choice.token not in self._ends:
            is_complete = await self._matcher.advance(choice.token) and n_tokens >= self.request.stop.min_tokens
        return self._text.add(choice, last=n_tokens == self.budget, complete=is_complete)


def _seed(seed: int, number: int) -> int:
    """The seed of an answer to a prompt: as in vLLM the request's and the answers' numbers, in torch's range."""
    return (seed + number + 2**63) % 2**64 - 2**63


class Generator:
    """Generates for any number of concurrent requests.

    Args:
        speculators: of answers whose next tokens are guessed; None to guess nothing.
        frames: what the frames of answers look like.
    """

    def __init__(
        self,
        sessions: Sessions,
        tokenizer: ChatTokenizer,
        end_tokens: frozenset[int],
        speculators: Speculators | None = None,
        frames: FrameShape = FrameShape(),  # noqa: B008 - frozen
    ) -> None:
        self._sessions = sessions
        self._frames = frames
        self._speculators = speculators
        # what parts allowed, each told once
        self._told: set[Speculation] = set()
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._spelling = PromptSpelling(tokenizer.vocabulary)

    def check(self, request: GenerationRequest) -> None:
        """Checks at once what `generate` checks only when it starts, after the other prompts of the HTTP request.

        Raises:
            RequestError: the prompt is too long, or no trunk is ready.
        """
        _most_tokens(self._sessions.local_parts, request)

    async def generate(self, request: GenerationRequest, report: Report) -> AsyncGenerator[TokenDelta]:
        """Yields one delta per token, after one for the prompt if it is asked for; the last has a finish reason.

        Closing the iterator ends the trunk's session at once.

        Raises:
            RequestError: the prompt is too long, no trunk is ready, or it fails.
        """
        answer = self._answer(request, report)
        report.prompt_tokens = len(request.prompt)
        async with aclosing(answer), self._opened(answer, answer.most_rows, report) as session:
            [choice], prompt = await self._begun(session, request, [answer], report)
            if prompt is not None:
                yield answer.begin(prompt)
            if not answer.budget:
                await session.close_and_cache(answer.ids)
                return
            async with aclosing(self._deltas(session, answer, [choice])) as deltas:
                async for delta in deltas:
                    yield delta

    async def generate_each(
        self, request: GenerationRequest, report: Report, reports: Sequence[Report]
    ) -> AsyncGenerator[tuple[int, TokenDelta]]:
        """Generates as many answers to one prompt as there are `reports`. Yields the number of an answer and a delta.

        All first tokens come from one run of the prompt, whose rows all parts cache: an answer computes those anew that
        fill no block. Answers with a seed have seeds of their own, which follow the request's.

        Args:
            report: of the prompt; the answers' are not in it.

        Raises:
            RequestError: as `generate`.
        """
        answers = [self._answer(request, each, number) for number, each in enumerate(reports)]
        report.prompt_tokens = len(request.prompt)
        async with self._opened(answers[0], len(request.prompt), report) as session:
            choices, prompt = await self._begun(session, request, answers, report)
            await session.close_and_cache(answers[0].ids)
        streams = [self._continued(*each, prompt, report) for each in zip(answers, choices, strict=True)]
        async with aclosing(merged(streams, _ANSWERS_AT_ONCE)) as deltas:
            async for each in deltas:
                yield each

    def _answer(self, request: GenerationRequest, report: Report, number: int = 0) -> "_Answer":
        """The answer of that number to the request, before its first token. Raises PromptTooLong."""
        most = _most_tokens(self._sessions.local_parts, request)
        budget = most if request.max_tokens is None else min(most, request.max_tokens)
        most_rows = len(request.prompt) + budget
        speculator = None if self._speculators is None else self._speculators.new(most_rows)
        return _Answer(request, number, budget, self._tokenizer.vocabulary, self._end_tokens, report, speculator)

    def _opened(self, answer: "_Answer", most_rows: int, report: Report) -> AbstractAsyncContextManager[SplitSession]:
        """A session that holds at most so many rows and begins with the answer's. Raises RequestError."""
        request = answer.request
        reuses = request.n_scored is None or answer.has_begun
        salt = request.cache_salt
        return self._sessions.opened(answer.ids, most_rows, request.tenant, report, reuses=reuses, salt=salt)

    async def _begun(
        self, session: SplitSession, request: GenerationRequest, answers: "Sequence[_Answer]", report: Report
    ) -> tuple[list[Choice], TokenDelta | None]:
        """Runs the prompt. The first token of each answer, and the delta about the prompt if it is asked for."""
        scores = None if request.n_scored is None else PromptScores(request.prompt, request.n_scored)
        choices = await session.choose_each(answers[0].ids, [answer.sampler for answer in answers], scores)
        self._observe(report, session.stream)
        if not request.echo and scores is None:
            return choices, None
        return choices, await self._prompt_delta(request, scores, is_all=not answers[0].budget)

    async def _deltas(
        self, session: SplitSession, answer: "_Answer", choices: Sequence[Choice]
    ) -> AsyncGenerator[TokenDelta]:
        """The answer from these tokens on; all parts cache its rows at the end."""
        while True:
            for choice in choices:
                delta = await answer.add(choice)
                yield delta
                if delta.finish_reason is not None:
                    # the last token was chosen, but not run; more may have been chosen behind it
                    await session.close_and_cache(answer.ids[:-1])
                    return
            choices = await self._next(session, answer)

    async def _next(self, session: SplitSession, answer: "_Answer") -> list[Choice]:
        """The next token, and those behind guesses that were right."""
        report, speculator = answer.report, answer.speculator
        guesses: Sequence[int] = ()
        n_padding = 0
        # where nothing is guessed all frames have one row
        if self._may_guess(session, speculator):
            guesses = await answer.guesses(session)
            n_padding = self._frames.n_padding(len(guesses), session.n_free_rows(len(answer.ids)))
        # behind the guesses, which take longer for some texts than for others
        await self._pause(answer)
        n_faults, began, computed = report.n_faults, time.perf_counter(), report.computing_seconds
        trip = await session.choose(answer.ids, answer.sampler, guesses, n_padding)
        report.guessed(trip.n_guesses, len(trip.choices) - 1)
        if speculator is not None:
            speculator.chosen([choice.token for choice in trip.choices])
            if trip.n_rows == 1 and report.n_faults == n_faults:
                computing = report.computing_seconds - computed
                speculator.ran(trip.n_guesses, time.perf_counter() - began, computing)
        self._observe(report, session.stream, len(trip.choices))
        return trip.choices

    async def _pause(self, answer: "_Answer") -> None:
        """Waits until the answer's next frame may begin."""
        now = time.monotonic()
        if answer.first_frame_at is None:
            answer.first_frame_at = now
        elif pause := self._frames.pause(now - answer.first_frame_at):
            await asyncio.sleep(pause)

    def _may_guess(self, session: SplitSession, speculator: Speculator | None) -> bool:
        if speculator is None:
            return False
        found = session.speculation
        may_guess = speculator.may_guess(found)
        if found not in self._told:
            self._told.add(found)
            log.info("speculation", on=may_guess, parts=str(found))
        return may_guess

    async def _continued(
        self, answer: "_Answer", choice: Choice, prompt: TokenDelta | None, begun: Report
    ) -> AsyncGenerator[TokenDelta]:
        """The answer that begins with this token, in a session of its own."""
        report = answer.report
        report.began, report.first_token, report.last_token = begun.began, begun.first_token, begun.last_token
        report.context = begun.context
        if prompt is not None:
            yield answer.begin(prompt)
        if not answer.budget:
            return
        first = await answer.add(choice)
        yield first
        if first.finish_reason is not None:
            return
        async with aclosing(answer), self._opened(answer, answer.most_rows, report) as session:
            choices = await self._next(session, answer)
            async with aclosing(self._deltas(session, answer, choices)) as deltas:
                async for delta in deltas:
                    yield delta

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

    def _observe(self, report: Report, stream: SessionStream, n_tokens: int = 1) -> None:
        now = time.perf_counter()
        if report.last_token is None:
            report.first_token = now
            self._sessions.metrics.time_to_first_token.observe(now - report.began)
        else:
            for _ in range(n_tokens):
                self._sessions.metrics.inter_token.observe((now - report.last_token) / n_tokens)
        report.last_token = now
        self._sessions.observe(report, stream)


def _with_fewer(entries: Sequence[TokenLogprob], n_alternatives: int) -> tuple[TokenLogprob, ...]:
    # mostly they are as many, and copying each takes long
    return tuple(
        replace(entry, alternatives=entry.alternatives[:n_alternatives])
        if len(entry.alternatives) > n_alternatives
        else entry
        for entry in entries
    )


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
