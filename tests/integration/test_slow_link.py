"""A link over which the rows of one step would take longer than the trunk may be silent."""

from pathlib import Path

import pytest

from splitlearn_client import link_speed
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
