"""Makes the reply to a chat or a completion of the generations of its request, whole or as a stream."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic_core import to_json
from starlette.types import Receive

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.deferred import DeferredResponse
from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.event_stream import DONE, event, event_stream
from splitlearn_client.api.generations import Generation, generation
from splitlearn_client.api.messages import StreamedMessage, WholeMessage, whole_message
from splitlearn_client.api.reading import fed
from splitlearn_client.api.replies import ReplyShape, measurements, usage
from splitlearn_client.api.schema import ChatFields, CompletionFields, GenerationFields
from splitlearn_client.api.service import Service
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.parsing.dialect import Reading
from splitlearn_client.quotas import Account, account_of
from splitlearn_client.report import Report, together
from splitlearn_client.request_info import RequestInfo, info_of


@dataclass(frozen=True)
class _Form:
    """What the reply needs to know of the request, whose body is not kept while answers are generated.

    Of `n_answers` to a prompt the best `n` are in the reply; `shows_logprobs` and `shows_ids` say whether their
    log-probabilities and the ids of their tokens are.
    `reading` says how a chat's answers are taken apart.
    """

    chat: bool
    model: str
    n: int
    n_answers: int
    shows_logprobs: bool
    shows_ids: bool
    reading: Reading | None

    @classmethod
    def of(cls, fields: GenerationFields, reading: Reading | None) -> "_Form":
        shows = not isinstance(fields, CompletionFields) or fields.logprobs is not None
        n, n_answers, ids = fields.n, fields.n_answers, fields.return_token_ids
        return cls(isinstance(fields, ChatFields), fields.model, n, n_answers, shows, ids, reading)


_Numbered = tuple[Sequence[ReplyShape], Generation]
"""The answers to one prompt, and their shapes."""


def answer(
    service: Service,
    fields: GenerationFields,
    wanted: list[GenerationRequest],
    request: Request,
    reading: Reading | None = None,
) -> Response:
    """The reply to a request, which begins to run when it is sent. Raises RequestError."""
    for later in wanted[1:]:
        service.generator.check(later)
    form = _Form.of(fields, reading)
    generations = _generations(service, form, wanted, account_of(request.scope), info_of(request.scope))
    if not fields.stream:
        return DeferredResponse(lambda receive: _whole_response(receive, generations, form))
    events = _events(generations, reading, include_usage=fields.include_usage, continuous_usage=fields.continuous_usage)
    return DeferredResponse(lambda receive: event_stream(receive, events))


def _generations(
    service: Service, form: _Form, wanted: list[GenerationRequest], account: Account, info: RequestInfo
) -> Iterator[_Numbered]:
    """One generation per prompt. They run one after the other, so that many prompts take no more capacity than one."""
    shape, n = ReplyShape(form.chat, form.model), form.n_answers
    operation = "chat" if form.chat else "text_completion"
    for index, each in enumerate(wanted):
        ids = each.prompt if form.shows_ids else None
        shapes = [replace(shape, index=index * n + i, prompt_ids=ids) for i in range(n)]
        yield shapes, generation(service, operation, each, n, account, info)


async def _whole_response(receive: Receive, generations: Iterator[_Numbered], form: _Form) -> Response:
    body = await unless_disconnected(receive, _whole(generations, form))
    return Response(body, media_type="application/json")


async def _whole(generations: Iterator[_Numbered], form: _Form) -> bytes:
    bodies = list[dict[str, Any]]()
    reports = list[Report]()
    for number, (shapes, running) in enumerate(generations):
        answers: list[list[TokenDelta]] = [[] for _ in shapes]
        async for index, delta in running.deltas:
            answers[index].append(delta)
        reports += running.reports
        for index, deltas in enumerate(_best(answers, form)):
            shape = replace(shapes[0], index=number * form.n + index)
            message = await _message(deltas, form.reading)
            # on a thread, as the log-probabilities of a long prompt take long
            bodies.append(await asyncio.to_thread(shape.whole, deltas, running.reports[0], message))
    choices = [choice for body in bodies for choice in body["choices"]]
    total = together(reports)
    body = bodies[0] | {"choices": choices, "usage": usage(total), "splitlearn": measurements(total)}
    return await asyncio.to_thread(to_json, body)


async def _message(deltas: list[TokenDelta], reading: Reading | None) -> WholeMessage | None:
    """A chat's message, taken apart; None if all of the text is one."""
    if reading is None:
        return None
    read = partial(whole_message, deltas, reading)
    # all of a long answer at once would hold up the event loop
    return await (asyncio.to_thread(read) if reading.threads is None else fed(reading, read))


def _best(answers: list[list[TokenDelta]], form: _Form) -> list[list[TokenDelta]]:
    """The `n` answers whose tokens have the highest log-probability on average; all in their order if that is all."""
    if len(answers) == form.n:
        return answers
    best = sorted(answers, key=_mean_logprob, reverse=True)[: form.n]
    if form.shows_logprobs:
        return best
    return [[replace(delta, logprobs=()) for delta in deltas] for deltas in best]


def _mean_logprob(deltas: list[TokenDelta]) -> float:
    known = [entry.logprob for delta in deltas if delta.n_tokens for entry in delta.logprobs]
    return mean(each or 0.0 for each in known) if known else 0.0


async def _events(
    generations: Iterator[_Numbered], reading: Reading | None, *, include_usage: bool, continuous_usage: bool
) -> AsyncGenerator[str]:
    reports: list[Report] = []
    n_told = 0
    shapes: Sequence[ReplyShape] = ()
    for shapes, running in generations:
        reports += running.reports
        begun = set[int]()
        messages = [StreamedMessage(reading) for _ in shapes]
        async with aclosing(running.deltas):
            async for number, delta in running.deltas:
                n_told += delta.n_tokens
                for piece, said in await fed(reading, partial(messages[number].add, delta)):
                    chunk = shapes[number].chunk(piece, said, running.answers[number], first=number not in begun)
                    # answers may be ahead of what was told
                    so_far = replace(together(reports), completion_tokens=n_told) if continuous_usage else None
                    spent = {} if so_far is None else {"usage": usage(so_far)}
                    begun.add(number)
                    yield event(chunk | spent)
    if include_usage:
        yield event(shapes[0].usage_chunk(together(reports)))
    yield DONE
