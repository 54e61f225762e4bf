"""The round-trip time to the trunk, over a link whose delay is known."""

from pathlib import Path

import pytest

from support.faulty_link import faulty_link
from support.running_split import running_client, running_trunk

DELAY = 0.05


async def test_a_frame_s_round_trip_is_the_network_s_and_not_the_trunk_s_work(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights) as trunk,
        faulty_link(trunk.trunk.server.port) as link,
        running_client(tiny_weights, link.address) as client,
    ):
        await client.ready()
        link.delay = DELAY
        report = (await client.complete(prompt="the quick brown fox", max_tokens=4)).json()["splitlearn"]
        n_frames = client.value("trunk_round_trip_seconds_count")
        mean = client.value("trunk_round_trip_seconds_sum") / n_frames
    assert n_frames == 4
    assert mean >= 2 * DELAY
    assert mean * n_frames == pytest.approx(report["seconds"]["wire"])


async def test_frames_of_a_long_prompt_which_wait_for_each_other_are_left_out(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights) as trunk,
        running_client(tiny_weights, trunk.address, max_num_batched_tokens=16) as client,
    ):
        await client.ready()
        await client.complete(prompt=list(range(20, 120)), max_tokens=4)
        assert trunk.value("frame_latency_seconds_count") > 4
        assert client.value("trunk_round_trip_seconds_count") == 3
