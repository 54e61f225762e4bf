"""A link over which the rows of one step would take longer than the trunk may be silent."""

from pathlib import Path

import pytest

from splitlearn_client import link_speed
from splitlearn_client.link_speed import FrameTrip, LinkSpeed
from splitlearn_client.trunk_connection import TrunkConnection
from support.far_link import Network, far_link
from support.running_split import running_client, running_split, running_trunk

PROMPT = list(range(3, 120))
ROW_BYTES = 64 * 4
# a prompt takes 1.5 s in each direction
SLOW = Network(0.0, up=2e4, down=2e4)


async def test_the_first_prompt_is_answered_though_its_rows_take_longer_than_the_trunk_may_be_silent(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_speed, "_FIRST_BYTES", 16 * ROW_BYTES)
    async with running_split(tiny_weights) as split:
        expected = (await split.client.complete(prompt=PROMPT, max_tokens=4)).json()["choices"]
    async with (
        running_trunk(tiny_weights) as trunk,
        far_link(trunk.server.port, SLOW) as link,
        running_client(tiny_weights, link.address, trunk_timeout=2.0) as client,
    ):
        await client.ready()
        body = (await client.complete(prompt=PROMPT, max_tokens=4)).json()
    assert body["choices"] == expected
    assert body["splitlearn"]["failovers"] == []
    # each row went once
    assert body["splitlearn"]["wire_bytes_sent"] < 1.3 * len(PROMPT) * ROW_BYTES


async def test_a_link_that_has_become_slow_is_measured_anew_before_the_next_attempt(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_speed, "_FIRST_BYTES", 16 * ROW_BYTES)
    was_fast = LinkSpeed()
    for _ in range(8):
        was_fast.learn(FrameTrip(len(PROMPT), 2 * len(PROMPT) * ROW_BYTES, 0.002, 0.01))
    was_fast.learn(FrameTrip(1, 2 * ROW_BYTES, 0.001, 0.005))
    monkeypatch.setattr(TrunkConnection, "link_to", lambda _connection, _replica: was_fast)
    async with (
        running_trunk(tiny_weights) as trunk,
        far_link(trunk.server.port, SLOW) as link,
        running_client(tiny_weights, link.address, trunk_timeout=2.0, failover_timeout=60.0) as client,
    ):
        await client.ready()
        reply = await client.complete(prompt=PROMPT, max_tokens=4)
    assert reply.status_code == 200, reply.text
    assert [each["reason"] for each in reply.json()["splitlearn"]["failovers"]] == ["TimedOut"]
