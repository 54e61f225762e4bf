"""One trunk that the client knows by several addresses: it is one replica in metrics and in placement."""

from pathlib import Path

import pytest

from support.addresses import ipv6_works
from support.running_split import running_client, running_trunk, until


@pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")
async def test_a_trunk_at_an_address_of_each_family_is_one_replica_that_serves(tiny_weights: Path) -> None:
    async with running_trunk(tiny_weights, host="::", insecure=True) as trunk:
        port = trunk.trunk.server.port
        async with running_client(tiny_weights, f"127.0.0.1:{port},[::1]:{port}") as client:
            replicas = client.service.connection.replicas

            async def counted() -> str:
                return (await client.http.get("/metrics")).text

            await until(lambda: all(each.reason is None for each in replicas._replicas.values()))
            await until(lambda: len(replicas._replicas) == 2 and len(replicas.usable_addresses()) == 1)
            assert 'splitlearn_client_trunk_replicas{state="ready"} 1.0' in await counted()
            assert 'splitlearn_client_trunk_replicas{state="unreachable"} 0.0' in await counted()
            assert (await client.complete(prompt="a", max_tokens=2)).status_code == 200
