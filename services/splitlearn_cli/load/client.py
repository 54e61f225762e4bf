"""One streamed request to an OpenAI endpoint, measured. The only module here that speaks HTTP."""

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import httpx

from splitlearn_cli.completion import is_loopback, refusal, speaks_something_else
from splitlearn_cli.errors import ServiceRefused, ServiceUnreachable
from splitlearn_cli.lines import Lines
from splitlearn_cli.load.answer import Answer
from splitlearn_cli.load.plan import PlannedRequest
from splitlearn_cli.load.record import Record, RequestFailure

Api = Literal["chat", "completions"]

_CONNECT_SECONDS = 10.0
# Below the 5 s after which uvicorn closes an idle connection: one that closes while a request enters it would be
# counted as the server's failure.
_KEEP_IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask and how.

    Args:
        url: scheme, host and port; without /v1.
        model: its name there.
        timeout: seconds without a byte after which a request has failed.
        api_key: sent as a bearer token, if given.
    """

    url: str
    model: str | None
    api: Api
    timeout: float
    api_key: str | None = field(default=None, repr=False)

    def session(self) -> httpx.AsyncClient:
        """As many connections as there are requests at a time: none of them waits here."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.api_key}"} if self.api_key else {},
            timeout=httpx.Timeout(self.timeout, connect=min(self.timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_IDLE_SECONDS
            ),
            trust_env=not is_loopback(httpx.URL(self.url).host),
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
    """Sends one request, once, and reads its answer to the end; a failure is part of the record.

    Args:
        began: the level's start on the clock of `time.perf_counter`.
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
    """Path and body: only fields that every server of this API knows. Greedy, so that a seed gives the same again."""
    asked: dict[str, Any] = {"prompt": request.prompt}
    if api == "chat":
        asked = {"messages": [{"role": "user", "content": request.prompt}]}
    return "/v1/chat/completions" if api == "chat" else "/v1/completions", {
        "model": model,
        **asked,
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _read(response: httpx.Response, answer: Answer) -> None:
    """To the last byte, even after [DONE]: only then can the connection serve the next request."""
    lines = Lines()
    async for data in response.aiter_bytes():
        for line in lines.feed(data):
            answer.feed(line, time.perf_counter())
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
        kind = "broken off"
    return RequestFailure(kind, str(error) or type(error).__name__)
