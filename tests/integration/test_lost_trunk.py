"""No replica is left: requests that come then do not wait, and one that was there waits for a bounded time."""

import asyncio
from pathlib import Path
from typing import Any

from support.running_split import free_port, running_client, running_trunk, until

ASKS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hi", "stream": True},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/embeddings": {"input": "hi"},
}
# a request that waited for it would not end within the test
NEVER = 3600.0


async def test_a_request_that_comes_when_no_replica_can_be_used_gets_503_at_once(tiny_weights: Path) -> None:
    port = free_port()
    trunks = f"127.0.0.1:{port},127.0.0.1:{free_port()}"
    async with running_client(tiny_weights, trunks, failover_timeout=NEVER) as client:
        async with running_trunk(tiny_weights, port=port):
            await client.ready()
        await until(lambda: not client.is_ready)
        for path, given in ASKS.items():
            reply = await client.http.post(path, json={"model": "tiny", **given})
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "trunk_not_ready")
            assert int(reply.headers["retry-after"]) >= 1


async def test_a_request_that_was_there_waits_for_the_failover_timeout_and_no_longer(tiny_weights: Path) -> None:
    async with running_trunk(tiny_weights) as trunk:
        async with running_client(tiny_weights, trunk.address, failover_timeout=0.5) as client:
            await client.ready()
            before = client.value("inter_token_latency_seconds_count")
            asking = asyncio.create_task(client.complete(prompt=[5, 6, 7], max_tokens=450))
            await until(lambda: client.value("inter_token_latency_seconds_count") > before + 5)
            await trunk.server.stop(0)
            reply = await asking
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "trunk_failed")
