"""A sole trunk with other weights or another cut: requests learn at once what was expected and what was found.

It is asked again all the same, and taken up once a worker that fits is in its place.
"""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.running_split import busy, free_port, running_client, running_trunk, until
from support.tiny_models import random_model, save_sepweight, tiny_config

ASK: dict[str, Any] = {"prompt": [5, 6, 7, 8, 9], "max_tokens": 60}
# a request that waited for it would not end within the test
FAILOVER_TIMEOUT = 3600.0


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same shape as the tiny ones."""
    return save_sepweight(tmp_path_factory.mktemp("other"), random_model(tiny_config("llama"), seed=1))


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


@pytest.mark.parametrize("difference", ["weights", "layers"])
async def test_a_request_in_the_middle_of_its_answer_ends_at_once_if_the_worker_comes_back_as_another_one(
    tiny_weights: Path, other_weights: Path, difference: str
) -> None:
    port = free_port()
    weights, layers = (other_weights, "1-4") if difference == "weights" else (tiny_weights, "2-3")
    settings = {"failover_timeout": FAILOVER_TIMEOUT, "layers": "1-4"}
    async with running_client(tiny_weights, f"127.0.0.1:{port}", **settings) as client:
        async with running_trunk(tiny_weights, "1-4", port=port) as trunk:
            await client.ready()
            expected = (await client.complete(**ASK)).json()["choices"]
            asking = asyncio.create_task(client.complete(**ASK))
            before = client.value("inter_token_latency_seconds_count")
            await until(lambda: client.value("inter_token_latency_seconds_count") > before + 5)
            await trunk.server.stop()
        async with running_trunk(weights, layers, port=port) as other:
            status, code, message = error_of(await asking)
            assert (status, code) == (502, "trunk_failed")
            assert f"[{trunk.fingerprint}]" in message
            assert f"[{other.fingerprint}]" in message
        async with running_trunk(tiny_weights, "1-4", port=port):
            await client.ready()
            assert (await client.complete(**ASK)).json()["choices"] == expected


async def test_a_request_without_a_token_yet_is_told_that_no_trunk_fits(
    tiny_weights: Path, other_weights: Path
) -> None:
    port = free_port()
    async with running_client(tiny_weights, f"127.0.0.1:{port}", failover_timeout=FAILOVER_TIMEOUT) as client:
        async with running_trunk(tiny_weights, "1-4", port=port) as trunk:
            await client.ready()
            async with busy(trunk):
                asking = asyncio.create_task(client.complete(**ASK))
                await until(lambda: trunk.open_sessions == 1)
                await trunk.server.stop()
        async with running_trunk(other_weights, "1-4", port=port) as other:
            status, code, message = error_of(await asking)
            assert (status, code) == (503, "trunk_not_ready")
            assert f"[{trunk.fingerprint}]" in message
            assert f"[{other.fingerprint}]" in message


async def test_a_client_that_starts_beside_another_model_says_so_and_takes_up_the_right_worker_later(
    tiny_weights: Path, other_weights: Path
) -> None:
    port = free_port()
    async with running_client(tiny_weights, f"127.0.0.1:{port}", failover_timeout=FAILOVER_TIMEOUT) as client:
        async with running_trunk(other_weights, "1-4", port=port) as other:
            await until(lambda: other.fingerprint in (client.service.connection.not_ready_reason or ""))
            told = (await client.http.get("/ready")).json()
            status, code, message = error_of(await client.complete(**ASK))
        async with running_trunk(tiny_weights, "1-4", port=port) as right:
            await client.ready()
            assert (await client.complete(**ASK)).status_code == 200
    assert (status, code) == (503, "trunk_not_ready")
    assert message == told["reason"]
    assert told["passes"] is False
    assert f"[{right.fingerprint}]" in message
    assert f"[{other.fingerprint}]" in message


async def test_a_next_stage_that_comes_back_as_another_one_is_said_through_the_chain(
    tiny_weights: Path, other_weights: Path
) -> None:
    port = free_port()
    async with (
        running_trunk(tiny_weights, "1-2", next=f"127.0.0.1:{port}") as first,
        running_client(tiny_weights, first.address, failover_timeout=FAILOVER_TIMEOUT) as client,
    ):
        async with running_trunk(tiny_weights, "2-4", port=port) as trunk:
            await client.ready()
            asking = asyncio.create_task(client.complete(**ASK))
            await until(lambda: client.value("inter_token_latency_seconds_count") > 5)
            await trunk.server.stop()
        async with running_trunk(other_weights, "2-4", port=port) as other:
            status, code, message = error_of(await asking)
            assert (status, code) == (502, "trunk_failed")
            assert f"the next stage serves [{other.fingerprint}], this one expects [{trunk.fingerprint}]" in message
        async with running_trunk(tiny_weights, "2-4", port=port):
            await client.ready()
            assert (await client.complete(**ASK)).status_code == 200
