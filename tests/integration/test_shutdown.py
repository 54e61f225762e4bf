"""A client service that is told to stop, as a process of its own, with requests under way."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from support.client_process import ClientProcess, becomes, client_process
from support.running_split import PATIENCE, RunningTrunk, busy, running_client, running_trunk, until

LONG: dict[str, Any] = {"model": "tiny", "prompt": "the quick brown fox", "max_tokens": 450, "temperature": 0}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 450,
    "stream": True,
}


@asynccontextmanager
async def serving(
    weights: Path, shutdown_timeout: float
) -> AsyncIterator[tuple[RunningTrunk, ClientProcess, httpx.AsyncClient]]:
    """A trunk in this process, a client service that is ready, and a way to ask it."""
    async with (
        running_trunk(weights) as trunk,
        client_process(weights, trunk.address, "--shutdown-timeout", shutdown_timeout) as client,
        httpx.AsyncClient(base_url=client.url, timeout=PATIENCE, trust_env=False) as http,
    ):
        await becomes(lambda: is_ready(http))
        yield trunk, client, http


async def is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/ready")).status_code == 200


async def is_not_ready(http: httpx.AsyncClient) -> bool:
    return not await is_ready(http)


def faults(client: ClientProcess) -> list[dict[str, Any]]:
    return [
        line
        for line in client.lines
        if line.get("level") == "error" or "exception" in line or line["event"] == "not a log line"
    ]


async def test_after_the_shutdown_timeout_every_request_gets_an_error_and_none_is_accepted(tiny_weights: Path) -> None:
    async with AsyncExitStack() as stack:
        trunk, client, http = await stack.enter_async_context(serving(tiny_weights, shutdown_timeout=2.0))
        begun = await stack.enter_async_context(http.stream("POST", "/v1/chat/completions", json=CHAT))
        events = begun.aiter_lines()
        await anext(events)
        # from now on nobody gets a token
        await stack.enter_async_context(busy(trunk))
        waiting = [asyncio.create_task(http.post("/v1/completions", json=LONG | {"stream": s})) for s in (False, True)]
        await until(lambda: trunk.open_sessions == 3)
        client.process.send_signal(signal.SIGTERM)
        await becomes(lambda: is_not_ready(http))
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "shutting down" in ready.json()["reason"]
        assert (await http.get("/health")).status_code == 200
        refused = await http.post("/v1/completions", json=LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["Connection"] == "close"
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        rest = [line async for line in events if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert await client.process.wait() == 0
        assert not faults(client)


async def test_what_ends_within_the_shutdown_timeout_is_whole(tiny_weights: Path) -> None:
    async with (
        serving(tiny_weights, shutdown_timeout=60.0) as (_, client, http),
        http.stream("POST", "/v1/completions", json=LONG | {"max_tokens": 100, "stream": True}) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        client.process.send_signal(signal.SIGTERM)
        rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert await client.process.wait() == 0
        assert not faults(client)


async def test_a_second_signal_drops_what_runs(tiny_weights: Path) -> None:
    async with serving(tiny_weights, shutdown_timeout=600.0) as (trunk, client, http), busy(trunk):
        waiting = asyncio.create_task(http.post("/v1/completions", json=LONG))
        await until(lambda: trunk.open_sessions == 1)
        client.process.send_signal(signal.SIGTERM)
        await becomes(lambda: is_not_ready(http))
        began = time.monotonic()
        client.process.send_signal(signal.SIGTERM)
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], httpx.TransportError)
        assert await client.process.wait() == 0
        assert time.monotonic() - began < PATIENCE
        assert not faults(client)


async def test_a_connection_that_the_http_library_overlooks_when_it_stops_is_ended_too(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def close_only_listeners(server: uvicorn.Server, sockets: Any = None) -> None:
        for each in server.servers:
            each.close()

    monkeypatch.setattr(uvicorn.Server, "shutdown", close_only_listeners)
    async with running_trunk(tiny_weights) as trunk:
        async with running_client(tiny_weights, trunk.address) as client:
            url = client.http.base_url
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        with suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE):
                await reader.read()
        writer.close()
