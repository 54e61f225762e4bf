"""The steady load: streams that follow each other, each compared with the oracle's answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

PROMPT_LENGTHS = (5, 30, 120, 280)
MAX_TOKENS = (12, 30, 60)
TIMEOUT = 120.0


@dataclass(frozen=True)
class Request:
    """What is asked for; every even one is greedy, every odd one is sampled by its seed."""

    number: int

    @property
    def body(self) -> dict[str, Any]:
        random = Random(self.number)
        length = PROMPT_LENGTHS[self.number % len(PROMPT_LENGTHS)]
        sampling = {"temperature": 0} if self.number % 2 == 0 else {"temperature": 1, "seed": self.number}
        return {
            "model": "tiny",
            "prompt": [random.randrange(3, 380) for _ in range(length)],
            "max_tokens": random.choice(MAX_TOKENS),
            "logprobs": 0,
            "stream": True,
            **sampling,
        }


@dataclass(frozen=True)
class Answer:
    """The text, one entry per token, and what the last chunk says of failovers; or the error."""

    tokens: tuple[str, ...] = ()
    failovers: tuple[dict[str, Any], ...] = ()
    error: str = ""


@dataclass
class Load:
    """Runs requests until told to end.

    Attributes:
        expected: the oracle's answers.
        n_answered: requests that were answered rightly.
        failed: numbers of requests, with the error.
        wrong: numbers of requests whose tokens are not the oracle's.
        failovers: of all requests.
    """

    url: str
    expected: dict[int, tuple[str, ...]]
    n_answered: int = 0
    n_tokens: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    failovers: list[dict[str, Any]] = field(default_factory=list)
    _is_ending: bool = False
    _has_token: list[asyncio.Event] = field(default_factory=list)

    async def every_stream_has_a_token(self) -> None:
        """Waits until each stream has got a token since the call: faults are to hit a service that works."""
        for event in self._has_token:
            event.clear()
        for event in self._has_token:
            await event.wait()

    async def run(self, http: httpx.AsyncClient, random: Random, has_token: asyncio.Event) -> None:
        """One stream after the other."""
        while not self._is_ending:
            number = random.choice(sorted(self.expected))
            answer = await ask(http, Request(number), has_token.set)
            # also after an error: nobody waits for ever
            has_token.set()
            self.failovers += answer.failovers
            self.n_tokens += len(answer.tokens)
            if answer.error:
                self.failed.append((number, answer.error))
            elif answer.tokens != self.expected[number]:
                self.wrong.append((number, _difference(answer.tokens, self.expected[number])))
            else:
                self.n_answered += 1

    @asynccontextmanager
    async def running(self, http: httpx.AsyncClient, n_streams: int, seed: int) -> AsyncIterator[None]:
        """The load for the time of the block; at its end running requests are answered to the end."""
        self._has_token = [asyncio.Event() for _ in range(n_streams)]
        streams = [
            asyncio.create_task(self.run(http, Random(f"{seed} {i}"), has_token))
            for i, has_token in enumerate(self._has_token)
        ]
        try:
            yield
        finally:
            self._is_ending = True
            await asyncio.gather(*streams)


async def oracle(http: httpx.AsyncClient, n_requests: int) -> dict[int, tuple[str, ...]]:
    """The answers of undisturbed requests, one at a time."""
    expected = {}
    for number in range(n_requests):
        answer = await ask(http, Request(number))
        if answer.error:
            raise RuntimeError(f"undisturbed request {number} failed: {answer.error}")
        expected[number] = answer.tokens
    return expected


async def ask(http: httpx.AsyncClient, request: Request, seen: Callable[[], None] = lambda: None) -> Answer:
    """One streamed answer; `seen` is called at each token. Errors are returned: they are what the machine counts."""
    tokens: list[str] = []
    failovers: tuple[dict[str, Any], ...] = ()
    try:
        async with http.stream("POST", "/v1/completions", json=request.body) as response:
            if response.status_code != 200:
                return Answer(error=f"{response.status_code} {(await response.aread()).decode()}")
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return Answer(tuple(tokens), failovers)
                if not line.startswith("data: "):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    return Answer(tuple(tokens), failovers, json.dumps(chunk["error"]))
                seen()
                choice = chunk["choices"][0]
                tokens += (choice["logprobs"] or {}).get("tokens", [])
                failovers = tuple(chunk.get("splitlearn", {}).get("failovers", failovers))
    except httpx.HTTPError as error:
        return Answer(tuple(tokens), failovers, repr(error))
    return Answer(tuple(tokens), failovers, "the stream ended without [DONE]")


def _difference(got: tuple[str, ...], expected: tuple[str, ...]) -> str:
    same = next((i for i, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), None)
    where = f"from token {same} on" if same is not None else "in length"
    return f"{len(got)} tokens, {len(expected)} expected; they differ {where}"
