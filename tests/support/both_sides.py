"""Asks two client services the same, many requests at once, and finds where their answers differ."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

import httpx

from support.random_requests import Json, Request, next_turn

# of the reply, which no two have in common
_ITS_OWN: Final = frozenset({"id", "created", "cached_tokens"})
_MEASURED: Final = "splitlearn"
_COUNTED: Final = ("completion_tokens", "draft_tokens", "accepted_draft_tokens", "replays")
_DATA, _DONE = "data: ", "[DONE]"


@dataclass(frozen=True)
class Reply:
    """What one side said.

    Attributes:
        status: of HTTP; 0 if there was no reply, and 400 or 500 for an error in the middle of a stream.
        said: all that has to be the same, by choice in the case of a stream.
        text: of the first choice.
        calls: of the first choice.
        told: what the service counted.
    """

    status: int
    said: Json
    text: str = ""
    calls: tuple[Json, ...] = ()
    told: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_refusal(self) -> bool:
        return 400 <= self.status < 500 and self.status != 429


@dataclass
class Found:
    """What a comparison found.

    Attributes:
        n_same: answers that were the same.
        n_refused: requests that both sides refused in the same words.
        n_different: answers that differ.
        n_failed: requests that a side did not answer.
        problems: the requests of the last two, with the first place where answers differ, or what each side said.
        kinds: how many requests asked for what.
        told: the sums of what the side that guesses counted.
    """

    n_same: int = 0
    n_refused: int = 0
    n_different: int = 0
    n_failed: int = 0
    problems: list[Json] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)

    @property
    def n_requests(self) -> int:
        return self.n_same + self.n_refused + len(self.problems)

    def add(self, request: Request, plain: Reply, guessing: Reply) -> None:
        """What both sides replied to the request."""
        self.kinds.update(request.kinds)
        asked = {"number": request.number, "path": request.path, "request": request.body}
        if plain.status != guessing.status or not (plain.status == 200 or plain.is_refusal):
            self.n_failed += 1
            said = {"plain": [plain.status, plain.said], "guessing": [guessing.status, guessing.said]}
            self.problems.append(asked | said)
        elif (place := first_difference(plain.said, guessing.said)) is not None:
            self.n_different += 1
            self.problems.append(asked | place)
        elif plain.is_refusal:
            self.n_refused += 1
        else:
            self.n_same += 1
            self.told.update(guessing.told)


async def compare(
    plain: httpx.AsyncClient,
    guessing: httpx.AsyncClient,
    conversations: Iterable[Request],
    n_at_once: int,
    most: int,
    seen: Callable[[Found], None] = lambda _found: None,
) -> Found:
    """Asks both sides whole conversations, `n_at_once` at a time, until there were `most` requests.

    `seen` gets what was found so far, after each request.
    """
    found, waiting = Found(), iter(conversations)
    n_asked = 0

    async def run() -> None:
        nonlocal n_asked
        request: Request | None = None
        while n_asked < most and (request := request or next(waiting, None)) is not None:
            n_asked += 1
            replies = await asyncio.gather(ask(plain, request), ask(guessing, request))
            found.add(request, *replies)
            seen(found)
            # both get the same history, also behind a difference
            request = next_turn(request, replies[0].text, replies[0].calls) if replies[0].status == 200 else None

    async with asyncio.TaskGroup() as running:
        for _ in range(n_at_once):
            running.create_task(run())
    return found


async def ask(http: httpx.AsyncClient, request: Request) -> Reply:
    """The reply, streamed or whole."""
    try:
        response = await http.post(request.path, json=request.body)
    except httpx.HTTPError as error:
        return Reply(0, {"error": repr(error)})
    if response.status_code != 200:
        return Reply(response.status_code, _without_its_own(_json(response.text)))
    if request.body.get("stream"):
        return _of_stream(response.text, is_single=request.body.get("n", 1) == 1)
    body = response.json()
    choice, told = body["choices"][0], _counted(body.pop(_MEASURED))
    message = choice.get("message", {"content": choice.get("text")})
    calls = tuple(message.get("tool_calls", ()))
    return Reply(200, _without_its_own(body), message["content"] or "", calls, told)


def first_difference(one: Any, other: Any, path: tuple[str | int, ...] = ()) -> Json | None:
    """Where two values of JSON differ first, and what each has there; None if they are equal."""
    if type(one) is not type(other) or not isinstance(one, dict | list):
        same = type(one) is type(other) and one == other
        return None if same else {"at": list(path), "plain": one, "guessing": other}
    pairs: Iterator[tuple[str | int, Any, Any]]
    if isinstance(one, dict):
        pairs = ((name, one.get(name), other.get(name)) for name in sorted(one.keys() | other.keys()))
    else:
        pairs = ((n, *both) for n, both in enumerate(zip_longest(one, other)))
    found = (first_difference(mine, others, (*path, name)) for name, mine, others in pairs)
    return next((each for each in found if each is not None), None)


def _of_stream(text: str, *, is_single: bool) -> Reply:
    """Of all events. Answers to one prompt come side by side in any order, so each is put together by itself."""
    # not by `splitlines`: texts have separators of lines in them that JSON does not escape
    events = [line.removeprefix(_DATA) for line in text.split("\n") if line.startswith(_DATA)]
    last = events.pop() if events else "no event"
    said: dict[str, list[Any]] = {}
    content, told, calls = "", Counter[str](), dict[int, Json]()
    for body in map(_json, events):
        told.update(_counted(body.pop(_MEASURED, {})))
        if not is_single and body["choices"]:
            # how far the other answers are
            body.pop("usage", None)
        index = body["choices"][0]["index"] if body["choices"] else -1
        said.setdefault(str(index), []).append(_without_its_own(body))
        if index == 0:
            [choice] = body["choices"]
            piece = choice.get("delta", {"content": choice.get("text")})
            content += piece.get("content") or ""
            _add_calls(calls, piece)
    if last != _DONE:
        said["last"] = [_json(last)]
        is_refusal = said["last"][0].get("error", {}).get("type") == "invalid_request_error"
        return Reply(400 if is_refusal else 500, said)
    return Reply(200, said, content, tuple(calls.values()), told)


def _counted(measured: Json) -> dict[str, int]:
    """What can be added up, of tokens and faults."""
    counted = {name: measured[name] for name in _COUNTED if name in measured}
    return {**counted, "failovers": len(measured.get("failovers", ()))}


def _add_calls(calls: dict[int, Json], piece: Json) -> None:
    for each in piece.get("tool_calls", ()):
        function = each["function"]
        if "id" in each:
            named = {"name": function["name"], "arguments": ""}
            calls[each["index"]] = {"id": each["id"], "type": "function", "function": named}
        calls[each["index"]]["function"]["arguments"] += function["arguments"]


def _without_its_own(value: Any) -> Any:
    """Without what is another in every reply: ids, times, and how much of the prompt was cached just then."""
    if isinstance(value, dict):
        return {name: _without_its_own(each) for name, each in value.items() if name not in _ITS_OWN}
    return [_without_its_own(each) for each in value] if isinstance(value, list) else value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text}
