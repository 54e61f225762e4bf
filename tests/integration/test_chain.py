"""Trunks in a row are one trunk to the client: the same tokens, the same refusals, and nothing lost when one dies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn_comm import (
    Frame,
    NextStageFailed,
    PositionNotReached,
    RemoteFailure,
    Reply,
    SessionOpening,
    SessionTooLong,
    Unreachable,
)
from splitlearn_trunk.endpoint import TrunkSession
from support.running_split import (
    RunningClient,
    RunningTrunk,
    free_port,
    running_client,
    running_split,
    running_trunk,
    until,
)

REQUESTS: list[dict[str, Any]] = [
    {"prompt": [5, 6, 7, 8, 9], "max_tokens": 40},
    {"prompt": list(range(20, 140)), "max_tokens": 20, "temperature": 1, "seed": 3},
    {"prompt": [*range(20, 140), 9, 9], "max_tokens": 20},
]


@asynccontextmanager
async def chain(weights: Path, *layers: str, **settings: Any) -> AsyncIterator[list[RunningTrunk]]:
    """A worker per range, the first first."""
    async with AsyncExitStack() as stack:
        stages: list[RunningTrunk] = []
        for each in reversed(layers):
            link = {"next": stages[0].address} if stages else {}
            stages.insert(0, await stack.enter_async_context(running_trunk(weights, each, **link, **settings)))
        next_stage = stages[0].trunk.next_stage
        await until(lambda: next_stage is not None and next_stage.is_ready)
        yield stages


async def answers(client: RunningClient) -> list[str]:
    """To all requests, the later ones behind what the earlier ones left in the caches, and then all at once."""
    await client.ready()
    bodies = [(await client.complete(**request)).json() for request in REQUESTS]
    at_once = await asyncio.gather(*(client.complete(**request) for request in REQUESTS))
    return [body["choices"][0]["text"] for body in bodies + [response.json() for response in at_once]]


@pytest.mark.parametrize("layers", [("1-2", "2-4"), ("1-2", "2-3", "3-4")])
async def test_a_chain_says_what_one_trunk_says(tiny_weights: Path, layers: tuple[str, ...]) -> None:
    async with running_split(tiny_weights, "1-4") as split:
        expected = await answers(split.client)
        alone = split.client.service.connection.local_parts.fingerprint
    async with chain(tiny_weights, *layers) as stages, running_client(tiny_weights, stages[0].address) as client:
        assert await answers(client) == expected
        parts = client.service.connection.local_parts
        assert (parts.plan.layers, parts.fingerprint) == ("1-4", alone)
        # every stage cached the prompts, and did not compute them again
        assert min(stage.value("prefix_cache_hits_total") for stage in stages) > 0
        assert client.value("num_replays_total") == 0
        await until(lambda: all(stage.open_sessions == 0 for stage in stages))


async def test_lost_rows_of_a_later_stage_are_sent_again_through_all(tiny_weights: Path) -> None:
    async with running_split(tiny_weights, "1-4") as split:
        expected = await answers(split.client)
    async with (
        chain(tiny_weights, "1-2", "2-4", enable_prefix_caching=False) as stages,
        running_client(tiny_weights, stages[0].address) as client,
    ):
        await client.ready()
        asking = asyncio.create_task(client.complete(**REQUESTS[0]))
        await until(lambda: client.value("inter_token_latency_seconds_count") > 5)
        stages[1].trunk.engine.expire(0.0)
        body = (await asking).json()
        assert body["choices"][0]["text"] == expected[0]
        assert (body["splitlearn"]["replays"], body["splitlearn"]["failovers"]) == (1, [])


async def test_refusals_of_a_later_stage_reach_the_client_as_they_are(tiny_weights: Path) -> None:
    async with chain(tiny_weights, "1-2", "2-4") as stages:
        info = await stages[0].client.service_info()
        assert (info.attributes["layers"], info.attributes["stage_layers"]) == ("1-4", "1-2")
        async with stages[0].client.stream(SessionOpening("test", info.fingerprint, 8)) as stream:
            await stream.step(Frame(0, torch.ones(3, 64)))
            with pytest.raises(SessionTooLong):
                await stream.step(Frame(3, torch.ones(6, 64)))
            stages[1].trunk.engine.expire(0.0)
            with pytest.raises(PositionNotReached):
                await stream.step(Frame(3, torch.ones(1, 64)))
            again = await stream.step(Frame(0, torch.ones(4, 64)))
            assert again.frame.rows is not None
            assert again.frame.rows.shape == (4, 64)
            emptied = await stream.step(Frame(2, None))
            assert emptied.frame.rows is None


async def test_a_stage_that_makes_wrong_rows_is_not_the_client_s_fault(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = TrunkSession.step

    async def twice(session: TrunkSession, frame: Frame) -> Reply:
        reply = await honest(session, frame)
        assert reply.frame.rows is not None
        return Reply(Frame(frame.position, torch.cat((reply.frame.rows, reply.frame.rows))))

    async with chain(tiny_weights, "1-2", "2-4") as stages:
        info = await stages[0].client.service_info()
        monkeypatch.setattr(TrunkSession, "step", twice)
        with pytest.raises(RemoteFailure, match="answered 3 rows with 6"):
            async with stages[0].client.stream(SessionOpening("test", info.fingerprint, 4)) as stream:
                await stream.step(Frame(0, torch.ones(3, 64)))


async def test_a_stage_without_a_next_one_is_not_ready_and_says_why(tiny_weights: Path) -> None:
    port = free_port()
    async with running_trunk(tiny_weights, "1-2", next=f"127.0.0.1:{port}") as first:
        assert not await first.client.health()
        with pytest.raises(Unreachable, match=f"the next stage takes no sessions.*127.0.0.1:{port}"):
            await first.client.service_info()
        async with running_client(tiny_weights, first.address) as client:
            await until(
                lambda: "the next stage takes no sessions" in (client.service.connection.not_ready_reason or "")
            )
            async with running_trunk(tiny_weights, "2-4", port=port):
                await client.ready()
                assert await first.client.health()
                assert first.value("next_replicas", state="ready") == 1
            await until(lambda: not client.is_ready)


async def test_clients_are_told_apart_a_worker_that_fails_and_one_whose_next_stage_does(tiny_weights: Path) -> None:
    async with chain(tiny_weights, "1-2", "2-4") as (first, second):
        info = await first.client.service_info()
        async with first.client.stream(SessionOpening("test", info.fingerprint, 8)) as stream:
            await stream.step(Frame(0, torch.ones(3, 64)))
            await second.server.stop()
            with pytest.raises(NextStageFailed, match=f"the stage at {second.address} failed"):
                await stream.step(Frame(3, torch.ones(1, 64)))


async def test_a_session_that_no_next_stage_takes_leaves_nothing_open(tiny_weights: Path) -> None:
    async with chain(tiny_weights, "1-2", "2-4") as (first, second):
        info = await first.client.service_info()
        await second.server.stop()
        next_stage = first.trunk.next_stage
        assert next_stage is not None
        await until(lambda: not next_stage.is_ready)
        async with first.client.stream(SessionOpening("test", info.fingerprint, 8)) as stream:
            with pytest.raises(Unreachable, match="the next stage takes no sessions"):
                await stream.step(Frame(0, torch.ones(3, 64)))
        assert (first.trunk.servicer.n_sessions, first.trunk.engine.n_running) == (0, 0)


@pytest.mark.parametrize(("layers", "words"), [("3-4", "start that one at 2"), ("1-4", "start that one at 2")])
async def test_a_next_stage_with_other_layers_is_refused_with_what_to_do(
    tiny_weights: Path, layers: str, words: str
) -> None:
    async with (
        running_trunk(tiny_weights, layers) as second,
        running_trunk(tiny_weights, "1-2", next=second.address) as first,
    ):
        stage = first.trunk.next_stage
        assert stage is not None
        await until(lambda: words in (stage.replicas.reason or ""))
        assert not await first.client.health()


@pytest.mark.parametrize("dying", [0, 1])
async def test_any_stage_may_die_in_the_middle_of_an_answer(tiny_weights: Path, dying: int) -> None:
    """Two workers for each stage; both of the first know both of the second."""
    async with running_split(tiny_weights, "1-4") as split:
        expected = await answers(split.client)
    async with AsyncExitStack() as stack:
        second = [await stack.enter_async_context(running_trunk(tiny_weights, "2-4")) for _ in range(2)]
        beyond = ",".join(worker.address for worker in second)
        first = [await stack.enter_async_context(running_trunk(tiny_weights, "1-2", next=beyond)) for _ in range(2)]
        trunk = ",".join(worker.address for worker in first)
        client = await stack.enter_async_context(running_client(tiny_weights, trunk))
        await client.ready()
        asking = asyncio.create_task(client.complete(**REQUESTS[0]))
        await until(lambda: client.value("inter_token_latency_seconds_count") > 5)
        (victim,) = [worker for worker in (first, second)[dying] if worker.open_sessions]
        await victim.server.stop()
        body = (await asking).json()
        assert body["choices"][0]["text"] == expected[0]
        assert len(body["splitlearn"]["failovers"]) == 1


async def test_a_stage_that_shuts_down_hands_its_sessions_over(tiny_weights: Path) -> None:
    async with running_split(tiny_weights, "1-4") as split:
        expected = await answers(split.client)
    async with AsyncExitStack() as stack:
        second = [await stack.enter_async_context(running_trunk(tiny_weights, "2-4")) for _ in range(2)]
        beyond = ",".join(worker.address for worker in second)
        first = await stack.enter_async_context(running_trunk(tiny_weights, "1-2", next=beyond))
        client = await stack.enter_async_context(running_client(tiny_weights, first.address))
        await client.ready()
        asking = asyncio.create_task(client.complete(**REQUESTS[0]))
        await until(lambda: client.value("inter_token_latency_seconds_count") > 5)
        (leaving,) = [worker for worker in second if worker.open_sessions]
        await leaving.trunk.stop(0.0)
        assert (await asking).json()["choices"][0]["text"] == expected[0]
