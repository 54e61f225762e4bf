"""The round-trip times to the trunk and between its stages, over links whose delay is known."""

from dataclasses import replace
from pathlib import Path

import pytest

from splitlearn_comm import Frame, Reply
from splitlearn_trunk.endpoint import TrunkSession
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


async def test_the_round_trip_between_two_stages_is_that_of_their_link(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights, "2-4") as last,
        faulty_link(last.trunk.server.port) as link,
        running_trunk(tiny_weights, "1-2", next=link.address) as first,
        running_client(tiny_weights, first.address) as client,
    ):
        await client.ready()
        link.delay = DELAY
        await client.complete(prompt="the quick brown fox", max_tokens=4)
        n_frames = first.value("next_round_trip_seconds_count")
        assert n_frames == 4
        assert first.value("next_round_trip_seconds_sum") / n_frames >= 2 * DELAY
        assert last.value("next_round_trip_seconds_count") == 0
        # for the client it is part of the way to its trunk, which is the whole chain
        assert client.value("trunk_round_trip_seconds_sum") > first.value("next_round_trip_seconds_sum")


async def test_frames_of_a_long_prompt_which_wait_for_each_other_are_left_out(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights) as trunk,
        running_client(tiny_weights, trunk.address, max_num_batched_tokens=16) as client,
    ):
        await client.ready()
        await client.complete(prompt=list(range(20, 120)), max_tokens=4)
        assert trunk.value("frame_latency_seconds_count") > 4
        assert client.value("trunk_round_trip_seconds_count") == 3


async def test_what_the_next_stage_reports_of_its_own_work_is_no_round_trip(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = TrunkSession.step

    async def says_that_it_took_long(self: TrunkSession, frame: Frame) -> Reply:
        return replace(await honest(self, frame), queue_seconds=50.0, compute_seconds=50.0)

    monkeypatch.setattr(TrunkSession, "step", says_that_it_took_long)
    async with (
        running_trunk(tiny_weights, "2-4") as last,
        running_trunk(tiny_weights, "1-2", next=last.address) as first,
        running_client(tiny_weights, first.address) as client,
    ):
        await client.ready()
        await client.complete(prompt="the quick brown fox", max_tokens=2)
        assert first.value("next_round_trip_seconds_count") == 2
        assert first.value("next_round_trip_seconds_sum") == 0
