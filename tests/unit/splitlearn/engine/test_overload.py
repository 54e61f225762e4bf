"""Ten times more sessions than the memory holds: few are preempted, the memory is used, and estimates come true."""

import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from statistics import mean, median

import pytest

from splitlearn.engine.limits import Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler
from support.crowd import (
    PAGE_ROWS,
    Crowd,
    Kind,
    NeverLonger,
    Visit,
    any_of_them,
    generous_limit,
    named_limit,
    no_limit,
)

Draw = Callable[[Random], Kind]
KINDS = [named_limit, generous_limit, no_limit, any_of_them]


def crowd(draw: Draw, n_fit: int, seed: int, n_visits: int, times: int = 10) -> Crowd:
    """`times` as many users at a time as there are places for sessions of mean length; all come at once."""
    mean_rows = mean(kind.prompt + kind.answer for kind in map(draw, [Random(seed)] * 300))
    # one session must fit, however long it becomes
    longest = max(kind.max_length for kind in map(draw, [Random(seed)] * 300))
    n_pages = max(round(n_fit * mean_rows / PAGE_ROWS), -(-longest // PAGE_ROWS))
    return Crowd(Random(seed), n_pages, times * n_fit, n_visits, draw)


def is_true(visit: Visit) -> bool:
    assert visit.waited_from is not None
    assert visit.admitted is not None
    return 0.5 <= visit.estimate / (visit.admitted - visit.waited_from) <= 2.0


@pytest.mark.parametrize(("n_fit", "n_visits", "least_use"), [(4, 120, 0.45), (10, 200, 0.55)])
@pytest.mark.parametrize("draw", KINDS)
def test_fewer_than_one_in_twenty_is_preempted_the_memory_is_used_and_estimates_come_true(
    draw: Draw, n_fit: int, n_visits: int, least_use: float
) -> None:
    crowds = [crowd(draw, n_fit, seed, n_visits).run() for seed in range(3)]
    n_preempted = sum(each.n_preempted for each in crowds)
    use = mean(each.mean_use for each in crowds)
    # before the first session has ended nothing is known of how long they stay
    waits = [visit for each in crowds for visit in each.ended if (visit.waited_from or 0.0) > each.ended[0].ended]
    true = mean(is_true(visit) for visit in waits)
    print(f"{n_preempted} of {3 * n_visits} preempted, {use:.2f} of the pages used, {true:.3f} of {len(waits)} true")
    assert n_preempted < 3 * n_visits / 20
    assert use > least_use
    assert true > 0.85


def test_without_a_forecast_most_of_them_would_be_preempted() -> None:
    given = crowd(no_limit, 10, 0, 200)
    given.given.admission.lengths = NeverLonger()
    assert given.run().n_preempted > 50


def test_when_sessions_suddenly_become_ten_times_as_long_most_of_them_still_keep_their_pages() -> None:
    drawn = 0

    def draw(dice: Random) -> Kind:
        nonlocal drawn
        drawn += 1
        return Kind(dice.randint(8, 50), round(dice.lognormvariate(3.0 if drawn < 150 else 5.4, 0.4)), 2048)

    given = Crowd(Random(0), 200, 100, 400, draw).run()
    print(f"{given.n_preempted} of 400 preempted, {given.mean_use:.2f} of the pages used")
    assert given.n_preempted < 400 / 10


@pytest.mark.parametrize("seed", range(3))
def test_a_tenant_with_one_user_hardly_waits_beside_one_with_a_hundred(seed: int) -> None:
    def draw(dice: Random) -> Kind:
        has_few = not any(visit.kind.tenant == "few" for visit in given.visits.values())
        return replace(named_limit(dice), tenant="few" if has_few else "many")

    given = Crowd(Random(seed), 120, 100, 300, draw)
    given.run()
    waits = {
        tenant: [
            (visit.admitted or 0.0) - visit.waited_from
            for visit in given.ended
            if visit.kind.tenant == tenant and visit.waited_from is not None
        ]
        for tenant in ("few", "many")
    }
    print({tenant: (len(seconds), median(seconds)) for tenant, seconds in waits.items()})
    assert len(waits["few"]) > 3
    # in its turn: until one of the ten sessions that run has ended
    assert max(waits["few"]) < median(waits["many"]) / 3


@pytest.mark.parametrize("seed", range(3))
def test_two_tenants_with_many_sessions_each_get_about_half_of_the_memory(seed: int) -> None:
    def draw(dice: Random) -> Kind:
        return replace(named_limit(dice), tenant="a" if dice.random() < 0.9 else "b")

    given = Crowd(Random(seed), 120, 200, 300, draw)
    shares: list[float] = []
    while given.visits or given.n_came < given.n_visits:
        given.step()
        waiting = [given.visits[number].kind.tenant for number in given.visits if given.given.is_waiting(number)]
        if {"a", "b"} <= set(waiting):
            held = {number: given.given.pages.held_by(number) for number in given.visits}
            of_b = sum(pages for number, pages in held.items() if given.visits[number].kind.tenant == "b")
            shares.append(of_b / sum(held.values()))
    assert len(shares) > 50
    assert 0.35 < mean(shares[20:]) < 0.65


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_starved_by_tenants_that_come_later(seed: int) -> None:
    def draw(dice: Random) -> Kind:
        # one that wants half of the memory, among strangers who are all new
        kind = Kind(500, 100, 700, "large") if given.n_came == 40 else named_limit(dice)
        return replace(kind, tenant=kind.tenant or str(given.n_came))

    given = Crowd(Random(seed), 80, 60, 400, draw)
    given.run()
    (large,) = (visit for visit in given.ended if visit.kind.tenant == "large")
    before = sum(seconds < (large.admitted or 0.0) for seconds in given.admissions)
    assert before < 60


def test_sessions_that_wait_cost_a_step_nothing() -> None:
    def seconds_per_step(n_waiting: int) -> float:
        given = Scheduler(Limits(max_num_seqs=32, max_waiting=n_waiting), PageAccounting(100_000, 32))
        for session in range(32 + n_waiting):
            assert given.submit(ScheduledRequest(session, 0, 8, 1000, owner=(str(session % 3),))) is None
        assert given.n_waiting == n_waiting
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(20):
                assert len(given.schedule(100).slices) == 32
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    assert seconds_per_step(10_000) < 3 * seconds_per_step(1)
