"""Sends and measures one streamed request. The only module of the package that uses HTTP."""

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import httpx
from httpx_sse import EventSource, SSEError

from splitlearn_cli.api_key import bearer
from splitlearn_cli.completion import refusal, speaks_something_else
from splitlearn_cli.errors import ServiceRefused, ServiceUnreachable
from splitlearn_cli.load.answer import Answer
from splitlearn_cli.load.plan import PlannedRequest
from splitlearn_cli.load.record import Record, RequestFailure
from splitlearn_cli.urls import connecting

Api = Literal["chat", "completions"]

_CONNECT_SECONDS = 10.0
# Less than the 5 s after which uvicorn closes an idle connection: if it closed one just as a request is sent, that
# would count as a failure of the server.
_KEEP_IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Endpoint:
    """The endpoint to measure.

    Args:
        url: scheme, host and port; without /v1.
        model: the model's name there.
        timeout: seconds without a byte after which a request has failed.
        api_key: the endpoint's, sent as a bearer token if given.
    """

    url: str
    model: str | None
    api: Api
    timeout: float
    api_key: str | None = field(default=None, repr=False)

    def session(self) -> httpx.AsyncClient:
        """An HTTP session without a limit on connections, so that no request waits here."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers=bearer(self.api_key),
            timeout=httpx.Timeout(self.timeout, connect=min(self.timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_IDLE_SECONDS
            ),
            **connecting(self.url),
        )


async def served_model(session: httpx.AsyncClient) -> str:
    """The first model that the endpoint lists. Raises ServiceUnreachable or ServiceRefused."""
    try:
        response = await session.get("/v1/models")
    except (httpx.ReadError, httpx.RemoteProtocolError) as error:
        raise speaks_something_else(str(session.base_url)) from error
    except httpx.TransportError as error:
        why = str(error) or type(error).__name__
        raise ServiceUnreachable(
            f"nothing answers at {session.base_url} ({why}); give its address with --url"
        ) from error
    if response.is_error:
        raise refusal(response)
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ServiceRefused(f"{response.url} lists no model; name one with --model") from error


async def measure(session: httpx.AsyncClient, api: Api, model: str, request: PlannedRequest, *, began: float) -> Record:
    """Sends one request, without retries, and reads its answer to the end. A failure becomes part of the record.

    Args:
        began: start of the level, by `time.perf_counter`.
    """
    path, body = request_of(api, model, request)
    answer = Answer()
    sent = time.perf_counter()
    try:
        async with session.stream("POST", path, json=body) as response:
            if response.status_code == 200:
                await _read(response, answer)
            else:
                await response.aread()
                answer.failure = _of_status(response)
    except httpx.RequestError as error:
        answer.failure = _of_transport(error)
    ended = answer.ended if answer.failure is None and answer.ended is not None else time.perf_counter()
    times = answer.chunk_times
    return Record(
        number=request.number,
        sent=sent - began,
        due=request.due,
        e2e=ended - sent,
        ttft=times[0] - sent if times else None,
        itl=tuple(later - earlier for earlier, later in pairwise(times)),
        max_tokens=request.max_tokens,
        output_tokens=answer.output_tokens,
        prompt_tokens=answer.prompt_tokens,
        finish_reason=answer.finish_reason,
        failure=answer.failure,
    )


def request_of(api: Api, model: str, request: PlannedRequest) -> tuple[str, dict[str, Any]]:
    """Path and body, with fields that every server of this API knows. Greedy, so that runs are repeatable."""
    prompt: dict[str, Any] = {"prompt": request.prompt}
    if api == "chat":
        prompt = {"messages": [{"role": "user", "content": request.prompt}]}
    return "/v1/chat/completions" if api == "chat" else "/v1/completions", {
        "model": model,
        **prompt,
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _read(response: httpx.Response, answer: Answer) -> None:
    """Reads to the last byte, even after [DONE], because only then can the connection be reused."""
    try:
        async for event in EventSource(response).aiter_sse():
            answer.feed(event.data, time.perf_counter())
    except SSEError:
        # another type of content
        await response.aread()
    answer.close()


def _of_status(response: httpx.Response) -> RequestFailure:
    retry_after = response.headers.get("Retry-After")
    kind = f"HTTP {response.status_code}" + (" with Retry-After" if retry_after else "")
    return RequestFailure(kind, str(refusal(response)), retry_after)


def _of_transport(error: httpx.RequestError) -> RequestFailure:
    if isinstance(error, httpx.TimeoutException):
        kind = "timeout"
    elif isinstance(error, httpx.ConnectError):
        kind = "no connection"
    else:
        kind = "incomplete"
    return RequestFailure(kind, str(error) or type(error).__name__)
