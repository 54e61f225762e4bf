"""A browser or program that goes away: its session leaves the trunk at once, and nobody else notices."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from support.running_split import Split, busy, until

PROMPT = "the quick brown fox"
SOON = 1.0
LONG: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 480, "temperature": 0}
PATHS = {
    "/v1/completions": LONG,
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 450,
        "temperature": 0,
    },
}


async def leave(asking: "asyncio.Task[httpx.Response]") -> None:
    """Drops the connection of a request that is under way."""
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


async def freed(split: Split) -> None:
    """Fails unless trunk and client are done with every request within a second."""
    await until(lambda: split.trunk.open_sessions == 0, within=SOON)
    await until(lambda: split.client.value("num_requests_running") == 0, within=SOON)


@pytest.mark.parametrize("path", list(PATHS))
async def test_leaving_in_the_middle_of_a_stream_frees_the_session(split: Split, path: str) -> None:
    async with split.client.http.stream("POST", path, json={**PATHS[path], "stream": True}) as response:
        coming = events(response)
        for _ in range(3):
            await anext(coming)
        assert split.trunk.open_sessions == 1
    await freed(split)
    assert split.client.value("request_success_total", finished_reason="abort") == 1
    assert 3 <= split.client.value("generation_tokens_total") < 400
    assert split.client.value("e2e_request_latency_seconds_count") == 1


async def test_leaving_frees_the_session_while_the_trunk_still_computes(split: Split) -> None:
    body = {**LONG, "stream": True}
    async with split.client.http.stream("POST", "/v1/completions", json=body) as response:
        await anext(events(response))
        async with busy(split.trunk):
            await response.aclose()
            await freed(split)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", list(PATHS))
async def test_leaving_before_the_first_token_frees_the_session(split: Split, path: str, stream: bool) -> None:
    with capture_logs() as logs:
        async with busy(split.trunk):
            asking = asyncio.create_task(split.client.http.post(path, json={**PATHS[path], "stream": stream}))
            await until(lambda: split.trunk.open_sessions == 1)
            await leave(asking)
            await freed(split)
    assert not [line for line in logs if line["log_level"] not in ("info", "debug")]
    assert split.client.value("request_success_total", finished_reason="abort") == 1
    assert split.client.value("generation_tokens_total") == 0


async def test_leaving_in_the_middle_of_a_request_without_streaming_frees_the_session(split: Split) -> None:
    asking = asyncio.create_task(split.client.http.post("/v1/completions", json=LONG))
    await until(lambda: split.trunk.value("rows_total") > 10)
    await leave(asking)
    await freed(split)
    assert split.client.value("request_success_total", finished_reason="abort") == 1


async def test_the_openai_package_closing_its_stream_frees_the_session(split: Split) -> None:
    stream = await split.client.openai.completions.create(**LONG, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await freed(split)


async def test_other_requests_get_the_same_answers_as_alone(split: Split) -> None:
    asked = [{**LONG, "prompt": PROMPT[: 4 + i], "max_tokens": 40} for i in range(3)]

    async def ask(body: dict[str, Any]) -> str:
        return (await split.client.http.post("/v1/completions", json=body)).json()["choices"][0]["text"]

    alone = [await ask(body) for body in asked]
    staying = [asyncio.create_task(ask(body)) for body in asked]
    leaving = [asyncio.create_task(split.client.http.post("/v1/completions", json=LONG)) for _ in range(4)]
    await until(lambda: split.trunk.open_sessions == 7)
    for request in leaving:
        await leave(request)
    await until(lambda: split.trunk.open_sessions <= 3, within=SOON)
    assert await asyncio.gather(*staying) == alone
    await freed(split)
    assert split.client.value("request_success_total", finished_reason="abort") == 4
