"""A chain of three whose last stage says nothing any more: the stage before it finds that out, and no other is blamed.

All ends have the same timeout, so that it is no matter of luck whose one passes first.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from splitlearn_comm.replicas.health import ReplicaState
from splitlearn_trunk.chain import ChainServicer
from support.faulty_link import FaultyLink, faulty_link
from support.running_split import (
    RunningClient,
    RunningTrunk,
    busy,
    free_port,
    running_client,
    running_split,
    running_trunk,
    until,
)

SILENCE = 5.0
ASK: dict[str, Any] = {"prompt": list(range(5, 105)), "max_tokens": 60}


@dataclass(frozen=True)
class Chain:
    """The first and the second stage have one worker, the last one may have several, behind links that can freeze."""

    client: RunningClient
    first: RunningTrunk
    second: RunningTrunk
    last: list[RunningTrunk]
    links: list[FaultyLink]

    async def asked(self, n_tokens: int) -> "asyncio.Task[dict[str, Any]]":
        """A request in the middle of its answer."""
        before = self.client.value("inter_token_latency_seconds_count")
        asking = asyncio.create_task(ask(self.client))
        await until(lambda: self.client.value("inter_token_latency_seconds_count") >= before + n_tokens)
        return asking


async def ask(client: RunningClient) -> dict[str, Any]:
    body: dict[str, Any] = (await client.complete(**ASK)).json()
    return body


@asynccontextmanager
async def chain(weights: Path, n_last: int, **settings: Any) -> AsyncIterator[Chain]:
    async with AsyncExitStack() as stack:
        last = [await stack.enter_async_context(running_trunk(weights, "3-4")) for _ in range(n_last)]
        links = [await stack.enter_async_context(faulty_link(worker.server.port)) for worker in last]
        beyond = ",".join(link.address for link in links)
        patience = {"next_timeout": SILENCE}
        second = await stack.enter_async_context(running_trunk(weights, "2-3", next=beyond, **patience))
        first = await stack.enter_async_context(running_trunk(weights, "1-2", next=second.address, **patience))
        client = await stack.enter_async_context(
            running_client(weights, first.address, trunk_timeout=SILENCE, **settings)
        )
        await client.ready()
        next_stage = second.trunk.next_stage
        assert next_stage is not None
        await until(lambda: next_stage.replicas.states()[ReplicaState.READY] == n_last)
        yield Chain(client, first, second, last, links)


def states_of(logs: Sequence[Any], worker: RunningTrunk) -> set[str]:
    """The states in which anybody has found the worker."""
    return {line["state"] for line in logs if line["event"] == "trunk replica" and line["replica"] == worker.address}


# the worker before it is not ready while it has no other one
WELL = {"ready", "not_serving"}


async def test_a_last_stage_whose_device_is_frozen_is_named_to_the_user_and_no_other_is_blamed(
    tiny_weights: Path,
) -> None:
    async with chain(tiny_weights, 1, failover_timeout=0.1) as it:
        asking = await it.asked(5)
        with capture_logs() as logs:
            async with busy(it.last[0]):
                error = (await asking)["error"]
        (frozen,) = it.links
        # it answers polls, as its device alone is frozen; the next attempt may come before or behind those
        assert error["message"].endswith(
            f" {frozen.address} did not reply within {SILENCE:g} s; the stream is cancelled"
        )
        assert it.first.address not in error["message"]
        assert it.second.address not in error["message"]
        assert states_of(logs, it.first) <= WELL
        assert states_of(logs, it.second) <= WELL
        blamed = [(line["replica"], line["error"]) for line in logs if line["event"] == "next stage failed"]
        assert set(blamed) == {(frozen.address, "TimedOut")}
        assert it.second.value("next_failures_total", error="TimedOut") == len(blamed)
        assert it.first.value("next_failures_total", error="TimedOut") == 0
        assert {line["replica"] for line in logs if line["event"] == "trunk ejected"} == {frozen.address}


async def test_an_answer_goes_on_through_the_same_first_stage_with_another_worker_behind_it(
    tiny_weights: Path,
) -> None:
    async with running_split(tiny_weights, "1-4") as split:
        expected = (await ask(split.client))["choices"]
    async with chain(tiny_weights, 2) as it:
        asking = await it.asked(5)
        (frozen,) = [worker for worker in it.last if worker.open_sessions]
        with capture_logs() as logs:
            async with busy(frozen):
                body = await asking
        assert body["choices"] == expected
        (failover,) = body["splitlearn"]["failovers"]
        assert failover["reason"] == "NextStageFailed", [line for line in logs if line["log_level"] != "info"]
        assert it.client.value("failovers_total", reason="NextStageFailed") == 1
        assert states_of(logs, it.first) == states_of(logs, it.second) == set()
        assert it.second.value("next_failures_total", error="TimedOut") == 1


async def test_a_stage_that_is_frozen_while_a_session_is_opened_is_found_by_the_one_before_it_too(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opening names blocks that are cached in every stage, so the last one is asked before there is a reply."""
    opened, honest = asyncio.Event(), ChainServicer.open

    async def noted(servicer: ChainServicer, opening: Any) -> Any:
        if opening.has_reply:
            opened.set()
        return await honest(servicer, opening)

    async with chain(tiny_weights, 1, failover_timeout=0.1) as it:
        await ask(it.client)
        monkeypatch.setattr(ChainServicer, "open", noted)
        (frozen,) = it.links
        frozen.freeze()
        with capture_logs() as logs:
            error = (await ask(it.client))["error"]
        frozen.thaw()
        assert opened.is_set()
        assert frozen.address in error["message"]
        assert error["code"] == "trunk_not_ready"
        assert states_of(logs, it.first) <= WELL
        assert states_of(logs, it.second) <= WELL


async def test_a_last_stage_that_is_gone_for_a_while_is_waited_for(tiny_weights: Path) -> None:
    port = free_port()
    async with (
        running_trunk(tiny_weights, "2-3", next=f"127.0.0.1:{port}") as second,
        running_trunk(tiny_weights, "1-2", next=second.address) as first,
        running_client(tiny_weights, first.address) as client,
    ):
        async with running_trunk(tiny_weights, "3-4", port=port) as last:
            await client.ready()
            expected = (await ask(client))["choices"]
            before = client.value("inter_token_latency_seconds_count")
            asking = asyncio.create_task(ask(client))
            await until(lambda: client.value("inter_token_latency_seconds_count") >= before + 5)
            await last.server.stop()
            await until(lambda: not client.is_ready)
        async with running_trunk(tiny_weights, "3-4", port=port):
            body = await asking
    assert body["choices"] == expected
    assert {each["reason"] for each in body["splitlearn"]["failovers"]} == {"NextStageFailed"}
