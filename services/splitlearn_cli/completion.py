"""Sends one prompt to a client service over HTTP, and streams the answer and its measurements."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from httpx_sse import EventSource, SSEError

from splitlearn_cli.api_key import bearer
from splitlearn_cli.errors import ServiceRefused, ServiceUnreachable
from splitlearn_cli.terminal import Aside, human_bytes, note, shown
from splitlearn_cli.urls import Connecting, connecting
from splitlearn_cli.waiting import wait_for_client


class Asking(Protocol):
    """A request of a text. `api_key` is the service's."""

    @property
    def api_key(self) -> str | None: ...

    @property
    def path(self) -> str:
        """The endpoint's path."""

    def body(self, model: str) -> dict[str, Any]:
        """The request in OpenAI's format, for a stream."""


@dataclass(frozen=True)
class Question:
    """`raw` continues the prompt itself; otherwise the model's chat template renders it. `api_key` is the service's."""

    prompt: str
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    raw: bool = False
    api_key: str | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        return "/v1/completions" if self.raw else "/v1/chat/completions"

    def body(self, model: str) -> dict[str, Any]:
        prompt = {"prompt": self.prompt} if self.raw else {"messages": [{"role": "user", "content": self.prompt}]}
        seed = {} if self.seed is None else {"seed": self.seed}
        return {
            "model": model,
            **prompt,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            **seed,
            "stream": True,
        }


@dataclass(frozen=True)
class Cost:
    """The measurements of one completion. Times are in seconds; bytes are those between client and trunk."""

    completion_tokens: int
    time_to_first_token_seconds: float
    tokens_per_second: float
    wire_bytes_sent: int
    wire_bytes_received: int

    def __str__(self) -> str:
        return (
            f"{self.completion_tokens} tokens, {self.tokens_per_second:.1f} tokens/s, "
            f"first token after {self.time_to_first_token_seconds:.2f} s, on the wire "
            f"{human_bytes(self.wire_bytes_sent)} sent, {human_bytes(self.wire_bytes_received)} received"
        )


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


def stream(
    url: str, question: Asking, *, timeout: float, wait: float = 0.0, options: Connecting | None = None
) -> Generator[str | Reasoning | Cost, None, None]:
    """Sends the request; yields text and reasoning as they arrive, and at the end the cost, if the service reports it.

    Args:
        url: the client service's, without a path.
        timeout: seconds without a byte after which the service counts as unreachable.
        wait: seconds to wait for a service that is starting.
        options: how to connect; None for the usual way to `url`.

    Raises:
        ServiceUnreachable: nothing answers, or the answer stops before its end.
        ServiceRefused: the service answered with an error.
    """
    with _reachable(url), _session(url, question.api_key, timeout, options) as session:
        wait_for_client(session, url, wait)
        model = _models(session, url)[0]["id"]
        with session.stream("POST", question.path, json=question.body(model)) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            yield from _events(response, url)


def show_answer(
    url: str, question: Question, *, timeout: float, wait: float = 0.0, options: Connecting | None = None
) -> None:
    """Streams the text to stdout, reasoning and then the cost to stderr. Raises as `stream` does."""
    cost, begun, aside = None, False, Aside()
    try:
        for item in stream(url, question, timeout=timeout, wait=wait, options=options):
            if isinstance(item, Cost):
                cost = item
            elif isinstance(item, Reasoning):
                aside.add(item.text)
            else:
                aside.end()
                begun = True
                print(shown(item), end="", flush=True)
    finally:
        aside.end()
        if begun:
            print(flush=True)
    if cost is not None:
        note(str(cost))


def served_models(
    url: str, *, api_key: str | None = None, timeout: float, wait: float = 0.0, options: Connecting | None = None
) -> list[dict[str, Any]]:
    """The models of a service as it describes them; each has an `id`. Raises as `stream` does."""
    with _reachable(url), _session(url, api_key, timeout, options) as session:
        wait_for_client(session, url, wait)
        return _models(session, url)


def refusal(response: httpx.Response) -> ServiceRefused:
    """The error in a response, in OpenAI's format or another."""
    try:
        error = response.json()["error"]
        hint = "; give a key with --api-key" if response.status_code == httpx.codes.UNAUTHORIZED else ""
        return ServiceRefused(f"{error['message']}{hint}", str(error.get("code") or ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServiceRefused(f"{response.url} answered {response.status_code}: {response.text[:200]}")


def _session(url: str, api_key: str | None, timeout: float, options: Connecting | None) -> httpx.Client:
    return httpx.Client(
        base_url=url,
        headers=bearer(api_key),
        timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        **(options or connecting(url)),
    )


@contextmanager
def _reachable(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise ServiceUnreachable(f"{url} sent nothing for too long; see its log, or give a longer --timeout") from error
    except (httpx.ReadError, httpx.RemoteProtocolError) as error:
        raise _incomplete(url) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ServiceUnreachable(
            f"no client service answers at {url} ({error}); start one with splitlearn up or splitlearn client, "
            "or give its address with --url"
        ) from error


def speaks_something_else(url: str) -> ServiceUnreachable:
    """The error for a port that does not speak HTTP."""
    return ServiceUnreachable(
        f"what listens at {url} does not speak HTTP; give the address of a client service with --url, not a trunk's"
    )


def _models(session: httpx.Client, url: str) -> list[dict[str, Any]]:
    try:
        response = session.get("/v1/models")
    except (httpx.ReadError, httpx.RemoteProtocolError) as error:
        raise speaks_something_else(url) from error
    if response.is_error:
        raise refusal(response)
    try:
        models = [{**model, "id": str(model["id"])} for model in response.json()["data"]]
        if not models:
            raise KeyError("data")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ServiceRefused(f"{response.url} lists no model; is this a splitlearn client?") from error
    return models


def _events(response: httpx.Response, url: str) -> Iterator[str | Reasoning | Cost]:
    for data in _data(response, url):
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise ServiceRefused(f"{url} streams {data[:80]!r}; is this a splitlearn client?") from error
        if "error" in chunk:
            raise ServiceRefused(str(chunk["error"]["message"]), str(chunk["error"].get("code") or ""))
        yield from _parts(chunk)
    raise _incomplete(url)


def _data(response: httpx.Response, url: str) -> Iterator[str]:
    try:
        yield from (event.data for event in EventSource(response).iter_sse() if event.data)
    except SSEError as error:
        raise ServiceRefused(f"{url} answers without a stream of events; is this a splitlearn client?") from error


def _incomplete(url: str) -> ServiceUnreachable:
    return ServiceUnreachable(f"the answer of {url} stopped before its end; see the log of the client service")


def _parts(chunk: dict[str, Any]) -> Iterator[str | Reasoning | Cost]:
    for choice in chunk.get("choices", []):
        if thought := choice.get("delta", {}).get("reasoning_content"):
            yield Reasoning(thought)
        if text := choice.get("text") or choice.get("delta", {}).get("content"):
            yield text
    if cost := chunk.get("splitlearn"):
        yield Cost(**{name: cost[name] for name in Cost.__dataclass_fields__})
