"""Fifty faults of fixed seeds, against one trunk and against a chain, and the pure parts of the machine."""

import asyncio
from dataclasses import asdict
from pathlib import Path

import pytest

from faults.machine import ROUND_FAULTS, Round, fleet_of, run_rolling_restart, run_round
from faults.results import percentiles, summary
from faults.schedule import KILLS, Kind, counted, schedule


def test_a_schedule_is_its_seed_s() -> None:
    assert schedule(3, 50, 2) == schedule(3, 50, 2)
    assert schedule(3, 50, 2) != schedule(4, 50, 2)


def test_a_thousand_faults_hold_more_kills_of_each_moment_and_in_second_stages_than_are_asked_for() -> None:
    thousand = [fault for seed in range(20) for fault in schedule(seed, ROUND_FAULTS, len(fleet_of(seed)[0]))]
    kinds = counted(thousand)
    assert kinds.total() == 1000
    # a tenth more: a moment that does not come is no fault
    assert kinds[Kind.KILL_IN_DECODE] >= 220
    assert min(kinds[Kind.KILL_IN_PREFILL], kinds[Kind.KILL_IN_REPLAY]) >= 110
    second = counted([fault for fault in thousand if fault.stage == 1])
    assert sum(second[kind] for kind in KILLS) >= 110
    assert all(second[kind] for kind in Kind)


def test_all_kinds_but_kills_have_equal_shares() -> None:
    kinds = counted(schedule(1, ROUND_FAULTS, 2))
    assert set(kinds) == set(Kind)
    assert len({count for kind, count in kinds.items() if kind not in KILLS}) == 1


@pytest.mark.parametrize("n_faults", [7, 25, 50, 150])
def test_a_round_of_any_length_has_every_kind_in_every_stage_by_its_share(n_faults: int) -> None:
    whole = counted(schedule(0, ROUND_FAULTS, 1))
    for seed in range(20):
        faults = schedule(seed, n_faults, 2)
        assert len(faults) == n_faults
        assert [fault.number for fault in faults] == list(range(n_faults))
        for stage in range(2):
            found = counted([fault for fault in faults if fault.stage == stage])
            assert all(abs(found[kind] - whole[kind] * n_faults / ROUND_FAULTS / 2) < 1 for kind in Kind)


def test_kills_are_summed_by_moment_and_those_in_second_stages_once_more() -> None:
    faults = {"kill in decode": 3, "kill in decode, second stage": 2, "kill in replay, second stage": 1, "cut": 9}
    found = asdict(Round(0, faults | {"cut, second stage": 4}))
    assert summary([found, found])["kills"] == {
        "kill in decode": 10,
        "kill in prefill": 0,
        "kill in replay": 2,
        "second stage": 6,
    }


def test_percentiles_are_of_the_values_themselves() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == {"p50": 2.0, "p99": 3.0, "max": 3.0}
    assert percentiles([]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1], ids=["one trunk", "chain"])
def test_no_token_is_lost_in_faults_by_the_dozen(tiny_weights: Path, seed: int) -> None:
    found = asyncio.run(run_round(tiny_weights, seed, n_faults=25))
    assert (found.failed, found.wrong) == ([], [])
    assert sum(found.faults.values()) >= 20
    assert found.failovers


@pytest.mark.slow
def test_nobody_notices_a_rolling_restart(tiny_weights: Path) -> None:
    found = asyncio.run(run_rolling_restart(tiny_weights, seed=0, n_replicas=3, n_streams=16, seconds=15))
    assert (found.failed, found.wrong) == ([], [])
    assert found.faults["restart"] >= 3
    assert {failover["reason"] for failover in found.failovers} == {"Draining"}
