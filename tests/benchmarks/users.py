"""Many users of the client service at once, over HTTP, and what they wait for."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import httpx

from tests.benchmarks.contenders import Endpoint, check_count


class Prompts:
    """Prompts of random token ids; no two begin alike, so that nothing of one is kept for another."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        self._random = random.Random(seed)
        self._vocabulary = min(vocabulary, 30000)

    def one(self, length: int) -> list[int]:
        return [self._random.randrange(3, self._vocabulary) for _ in range(length)]

    def many(self, count: int, length: int) -> list[list[int]]:
        return [self.one(length) for _ in range(count)]


@dataclass(frozen=True)
class MixedLoad:
    """`count` Poisson arrivals, `rate` a second; lengths are uniform. Each of `rounds` has its own."""

    count: int = 6
    rate: float = 1.0
    rounds: int = 1
    prompt: tuple[int, int] = (32, 1500)
    output: tuple[int, int] = (16, 256)

    def requests(self, seed: int, vocabulary: int) -> list[dict[str, Any]]:
        """When (`at`, seconds), `prompt` and `n` tokens of each."""
        chosen, prompts = random.Random(seed), Prompts(seed, vocabulary)
        at, found = 0.0, []
        for _ in range(self.count):
            prompt = prompts.one(chosen.randint(*self.prompt))
            found.append({"at": at, "prompt": prompt, "n": chosen.randint(*self.output)})
            at += chosen.expovariate(self.rate)
        return found


def together(endpoint: Endpoint, prompts: Sequence[Sequence[int]], n: int) -> float:
    """Seconds until all have got `n` tokens, all sent at once."""
    return arriving(endpoint, [{"at": 0.0, "prompt": prompt, "n": n} for prompt in prompts])


def arriving(endpoint: Endpoint, requests: Sequence[dict[str, Any]]) -> float:
    """Seconds from the start to the last token of requests (`at`, `prompt`, `n`)."""

    async def run() -> float:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=endpoint.url, timeout=600, limits=limits) as http:
            began = time.perf_counter()
            await asyncio.gather(*(_one(http, endpoint, each) for each in requests))
            return time.perf_counter() - began

    return asyncio.run(run())


async def _one(http: httpx.AsyncClient, endpoint: Endpoint, request: dict[str, Any]) -> None:
    await asyncio.sleep(request["at"])
    reply = await http.post("/v1/completions", json=endpoint.body(request["prompt"], request["n"]))
    reply.raise_for_status()
    check_count(reply.json()["usage"]["completion_tokens"], request["n"])


@dataclass
class Waits:
    """Seconds between two tokens of users who decode, before and while a long prompt is computed."""

    before: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    prompt_seconds: float = 0.0

    @property
    def usual(self) -> float:
        return median(self.before)

    @property
    def late_before(self) -> float:
        """One wait in a hundred is longer."""
        return quantiles(self.before, n=100)[-1]

    @property
    def late(self) -> float:
        return quantiles(self.beside, n=100)[-1]

    @property
    def worst(self) -> float:
        return max(self.beside)


def beside_a_long_prompt(
    endpoint: Endpoint, prompts: Sequence[Sequence[int]], long_prompt: Sequence[int], n: int
) -> Waits:
    """Users decode; when each has got 2 `n` tokens, somebody sends the long prompt. They stop when it is answered.

    Of what was before only the waits count since each had got `n`, when nobody computed a prompt any more.
    """

    async def run() -> Waits:
        waits, stage = Waits(), _Stage([0] * len(prompts))
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=endpoint.url, timeout=600, limits=limits) as http,
            asyncio.TaskGroup() as users,
        ):
            for number, prompt in enumerate(prompts):
                users.create_task(_decode(_token_times(http, endpoint, prompt), number, n, stage, waits))
            await stage.all_decode.wait()
            stage.came = True
            began = time.perf_counter()
            await _one(http, endpoint, {"at": 0.0, "prompt": long_prompt, "n": 1})
            waits.prompt_seconds = time.perf_counter() - began
            stage.answered = True
        return waits

    return asyncio.run(run())


@dataclass
class _Stage:
    """How many tokens each user has, and how far the long prompt is."""

    tokens: list[int]
    all_decode: asyncio.Event = field(default_factory=asyncio.Event)
    came: bool = False
    answered: bool = False


async def _decode(times: AsyncGenerator[float], user: int, n: int, stage: _Stage, waits: Waits) -> None:
    last = 0.0
    async with aclosing(times):
        async for now in times:
            if stage.came:
                waits.beside.append(now - last)
            elif min(stage.tokens) >= n:
                waits.before.append(now - last)
            last = now
            stage.tokens[user] += 1
            if min(stage.tokens) >= 2 * n:
                stage.all_decode.set()
            if stage.answered:
                return
    raise SystemExit("a user got all of its tokens before the long prompt was answered")


async def _token_times(http: httpx.AsyncClient, endpoint: Endpoint, prompt: Sequence[int]) -> AsyncGenerator[float]:
    """The time of each token, until the one who asks has enough."""
    body = {**endpoint.body(prompt, 1024), "stream": True}
    async with http.stream("POST", "/v1/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                if "error" in json.loads(line.removeprefix("data: ")):
                    raise SystemExit(f"the stream broke off: {line}")
                yield time.perf_counter()
