"""A trunk at capacity: waiting in its queue is no silence, and its overload never looks like a failure."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from splitlearn.engine import EngineSession, Limits
from splitlearn.engine.giving_way import AWAY_SECONDS
from support.running_split import RunningTrunk, Split, running_client, running_trunk, until

# far longer than any wait for the network, far shorter than requests wait for admission here
TRUNK_TIMEOUT = 1.5
FAILOVER_TIMEOUT = 1.0
LONG: dict[str, Any] = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 400, "temperature": 0, "stream": True}


@asynccontextmanager
async def split(weights: Path, queue_timeout: float) -> AsyncIterator[Split]:
    """A trunk for one session at a time, and a client that soon gives a silent trunk up."""
    async with (
        running_trunk(weights, max_num_seqs=1, queue_timeout=queue_timeout) as trunk,
        running_client(
            weights, trunk.address, trunk_timeout=TRUNK_TIMEOUT, failover_timeout=FAILOVER_TIMEOUT
        ) as client,
    ):
        await client.ready()
        yield Split(trunk, client)


async def step(trunk: RunningTrunk, session: EngineSession) -> None:
    engine = trunk.trunk.engine
    await engine.step(session, 0, torch.zeros(1, engine.part.hidden_size, dtype=engine.part.dtype))


async def ask(running: Split) -> httpx.Response:
    return await running.client.complete(prompt=[5, 6, 7], max_tokens=2)


async def test_waiting_for_admission_may_take_longer_than_the_trunk_timeout(tiny_weights: Path) -> None:
    async with split(tiny_weights, queue_timeout=60.0) as running:
        engine = running.trunk.trunk.engine
        held = engine.open()
        await step(running.trunk, held)
        # it does not make way, however long it does nothing
        engine._sessions.scheduler.idle_seconds = lambda _: 0.0
        asking = asyncio.create_task(ask(running))
        await until(lambda: engine.n_waiting == 1)
        done, _ = await asyncio.wait({asking}, timeout=2 * TRUNK_TIMEOUT)
        assert not done
        counted = [running.trunk.value(f"num_sessions_{state}") for state in ("running", "waiting", "open")]
        # the held session is the engine's alone
        assert counted == [1, 1, 1]
        assert running.client.value("num_requests_running") == 1
        engine.close(held)
        assert (await asking).status_code == 200
        assert running.client.value("request_queue_time_seconds_sum") > 2 * TRUNK_TIMEOUT


async def test_a_request_that_waits_for_the_client_s_own_kv_cache_counts_as_waiting(tiny_weights: Path) -> None:
    async with running_trunk(tiny_weights) as trunk:
        async with running_client(tiny_weights, trunk.address) as measured:
            await measured.ready()
            page_bytes = measured.service.connection.local_parts.bottom.row_bytes * Limits.page_size
        # half of it is the bottom's
        async with running_client(tiny_weights, trunk.address, kv_cache_memory_bytes=2 * 4 * page_bytes) as client:
            await client.ready()
            bottom = client.service.connection.local_parts.bottom
            held = bottom.open()
            await bottom.step(held, 0, torch.full((2 * Limits.page_size,), 5))
            asking = asyncio.create_task(client.complete(prompt=[5, 6, 7], max_tokens=2))
            await until(lambda: client.value("num_requests_waiting") == 1)
            assert client.value("num_requests_running") == 0
            bottom.close(held)
            assert (await asking).status_code == 200
            assert client.value("num_requests_waiting") == 0


async def test_a_request_that_waits_too_long_for_admission_gets_429(tiny_weights: Path) -> None:
    async with split(tiny_weights, queue_timeout=0.2) as running:
        held = running.trunk.trunk.engine.open()
        await step(running.trunk, held)
        refused = await ask(running)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_busy")
        assert "waited 0.2 s for a seat" in refused.json()["error"]["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        running.trunk.trunk.engine.close(held)
        assert (await ask(running)).status_code == 200


async def test_in_the_middle_of_a_stream_it_is_an_event_that_says_the_same(tiny_weights: Path) -> None:
    async with split(tiny_weights, queue_timeout=0.2) as running:
        # an older session, for which the stream's is preempted
        engine = running.trunk.trunk.engine
        held = engine.open()
        # between two tokens it counts as away already
        engine._sessions.scheduler.idle_seconds = lambda _: AWAY_SECONDS
        async with running.client.http.stream("POST", "/v1/completions", json=LONG) as response:
            lines = response.aiter_lines()
            await anext(lines)
            await step(running.trunk, held)
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "too_busy"
