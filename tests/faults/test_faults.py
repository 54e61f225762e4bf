"""Fifty faults of fixed seeds, against one trunk and against a chain, and the pure parts of the machine."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from faults.machine import run_rolling_restart, run_round
from faults.results import percentiles
from faults.schedule import Kind, counted, schedule


def test_a_schedule_is_its_seed_s_and_has_every_kind_by_its_share() -> None:
    assert schedule(3, 50) == schedule(3, 50)
    assert schedule(3, 50) != schedule(4, 50)
    thousand = Counter[Kind]()
    for seed in range(20):
        thousand += counted(schedule(seed, 50))
    assert thousand.total() == 1000
    assert thousand[Kind.KILL_IN_DECODE] >= 190
    assert min(thousand[Kind.KILL_IN_PREFILL], thousand[Kind.KILL_IN_REPLAY]) >= 90
    assert set(thousand) == set(Kind)


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
