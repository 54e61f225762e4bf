from collections import Counter
from random import Random

import pytest

from splitlearn_comm import ServiceLoad
from splitlearn_comm.replicas.placement import LoadEstimate, Pressure, less_loaded


def estimate(*, running: int = 0, waiting: int = 0, total: int = 1000, free: int = 1000) -> LoadEstimate:
    it = LoadEstimate()
    it.report(ServiceLoad(running, waiting, total, free))
    return it


@pytest.mark.parametrize(
    ("lighter", "heavier"),
    [
        (estimate(free=500), estimate(free=499)),
        # the same rows are a larger share of a smaller worker
        (estimate(total=2000, free=1800), estimate(total=1000, free=800)),
        # who keeps sessions waiting has no room, whatever the numbers say
        (estimate(free=10), estimate(free=900, waiting=1)),
        (estimate(running=2), estimate(running=3)),
    ],
)
def test_the_less_loaded_of_two_gets_the_session(lighter: LoadEstimate, heavier: LoadEstimate) -> None:
    for seed in range(20):
        assert less_loaded([("heavy", heavier.pressure), ("light", lighter.pressure)], Random(seed)) == "light"


def test_what_was_placed_since_the_last_report_counts_until_the_next_one() -> None:
    one, other = estimate(), estimate()
    one.placed(100)
    assert one.pressure > other.pressure
    one.report(ServiceLoad(1, 0, 1000, 900))
    other.report(ServiceLoad(2, 0, 1000, 800))
    assert one.pressure < other.pressure
    assert one.pressure == Pressure(0, 0.1, 1)


def test_a_replica_that_reports_no_load_is_usable() -> None:
    silent = LoadEstimate()
    silent.report(None)
    assert silent.pressure == Pressure(0, 0.0, 0)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (estimate(free=1), False),
        (estimate(free=0), True),
        (estimate(waiting=1), True),
        # a server that bounds nothing refuses nobody
        (estimate(total=0, free=0), False),
    ],
)
def test_a_replica_may_refuse_a_session_where_others_wait_or_its_rows_are_taken(
    load: LoadEstimate, expected: bool
) -> None:
    assert load.may_refuse is expected


def test_what_was_placed_since_the_last_report_may_have_taken_the_rows() -> None:
    load = estimate(free=100)
    load.placed(99)
    assert not load.may_refuse
    load.placed(1)
    assert load.may_refuse


def test_open_sessions_may_take_all_rows_though_the_last_report_knows_nothing_of_them() -> None:
    load = estimate()
    load.placed(600)
    load.placed(400)
    load.report(ServiceLoad(2, 0, 1000, 1000))
    assert load.may_refuse
    load.ended(600)
    assert not load.may_refuse


def test_a_burst_between_two_reports_is_spread() -> None:
    dice, loads = Random(3), {name: estimate(total=10_000, free=10_000) for name in "abcde"}
    placed: Counter[str] = Counter()
    for _ in range(500):
        name = less_loaded([(name, load.pressure) for name, load in loads.items()], dice)
        loads[name].placed(10)
        placed[name] += 1
    assert min(placed.values()) > 90
    assert max(placed.values()) < 110


def test_clients_with_the_same_reports_do_not_all_take_the_same_replica() -> None:
    loads = [(name, estimate(running=running).pressure) for running, name in enumerate("abcde")]
    chosen = Counter(less_loaded(loads, Random(seed)) for seed in range(500))
    assert len(chosen) == 4
    assert chosen["a"] < 300
