"""The reply with the only answer to a chat, in another dialect than that of chat completions."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.types import Receive

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.deferred import DeferredResponse
from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.api.error_replies import invalid
from splitlearn_client.api.event_stream import event, event_stream
from splitlearn_client.api.generations import Generation, generation
from splitlearn_client.api.places import Places
from splitlearn_client.api.reading import fed
from splitlearn_client.api.schema import ChatFields
from splitlearn_client.api.service import Service
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.parsing.dialect import Reading
from splitlearn_client.quotas import account_of
from splitlearn_client.report import Report
from splitlearn_client.request_info import info_of

Json = dict[str, Any]


class Telling(Protocol):
    """Tells one answer in a dialect: in events while it comes, and whole at its end."""

    def begin(self, report: Report) -> list[Json]:
        """The events before the answer, whose first token is there."""
        ...

    def add(self, delta: TokenDelta) -> list[Json]:
        """The events of a piece of the answer."""
        ...

    def end(self, report: Report) -> list[Json]:
        """The events after the answer."""
        ...

    def whole(self, report: Report) -> Json:
        """The reply without a stream, after `end`."""
        ...


def chat_fields(body: Json, places: Places) -> ChatFields:
    """The chat that a request of another dialect is translated into. Raises BadRequest."""
    try:
        return ChatFields.model_validate(body)
    except ValidationError as error:
        # the first element of a path says that it is in the body
        problems = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise invalid(problems, places.named) from error


def answer_one(
    service: Service,
    wanted: GenerationRequest,
    request: Request,
    telling: Telling,
    places: Places,
    reading: Reading | None,
    *,
    stream: bool,
) -> Response:
    """The reply to a request, which begins to run when it is sent. `reading`: how `telling` takes the answer apart."""
    running = generation(service, "chat", wanted, 1, account_of(request.scope), info_of(request.scope))
    told = _told(running, telling, places, reading)
    if stream:
        events = _events(told)
        return DeferredResponse(lambda receive: event_stream(receive, events))
    return DeferredResponse(lambda receive: _whole_response(receive, told, running, telling))


async def _told(running: Generation, telling: Telling, places: Places, reading: Reading | None) -> AsyncGenerator[Json]:
    report, begun = running.reports[0], False
    with places.naming():
        async with aclosing(running.deltas):
            async for _, delta in running.deltas:
                # an error before the first token has a status
                before = [] if begun else telling.begin(report)
                begun = True
                for each in [*before, *await fed(reading, partial(telling.add, delta))]:
                    yield each
        for each in telling.end(report):
            yield each


async def _events(told: AsyncGenerator[Json]) -> AsyncGenerator[str]:
    async with aclosing(told):
        async for each in told:
            yield event(each)


async def _whole_response(
    receive: Receive, told: AsyncGenerator[Json], running: Generation, telling: Telling
) -> Response:
    await unless_disconnected(receive, _run(told))
    text = json.dumps(telling.whole(running.reports[0]), ensure_ascii=False, separators=(",", ":"))
    # a model may write half of a surrogate pair into arguments, which JSON can escape and Unicode does not allow
    return Response(text.encode(errors="backslashreplace"), media_type="application/json")


async def _run(told: AsyncGenerator[Json]) -> None:
    async with aclosing(told):
        async for _ in told:
            pass
