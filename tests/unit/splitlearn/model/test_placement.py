"""Cuts for unequal workers, compared with all cuts that there are."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitlearn.errors import BadPlan, DoesNotFit
from splitlearn.model.placement import ModelCosts, Placement, Worker, propose

GIB = 2**30
PLENTY = 10**15


def even(n_layers: int, weights: int = 100, cache: int = 10, *, reserved: int = 0, hop: int = 0) -> ModelCosts:
    return ModelCosts((weights,) * n_layers, (cache,) * n_layers, 0, 0, reserved, hop)


def layers(placement: Placement) -> list[tuple[int, int, int]]:
    return [(stage.worker, stage.layers.start, stage.layers.stop) for stage in placement.stages]


# All cuts that there are, the slow way.


def total(costs: ModelCosts, start: int, stop: int) -> int:
    return costs.reserved + sum(costs.layers[start:stop]) + sum(costs.cache[start:stop]) if stop > start else 0


def time(costs: ModelCosts, worker: Worker, start: int, stop: int) -> Fraction:
    if start == stop:
        return Fraction(0)
    moving = Fraction(2 * costs.hop, worker.link_speed) if worker.link_speed else 0
    return Fraction(sum(costs.layers[start:stop]), worker.read_speed) + moving


def client_total(costs: ModelCosts, ends: int) -> int:
    n_layers = len(costs.layers)
    weights = [*costs.layers[:ends], *costs.layers[n_layers - ends :]]
    cache = max(sum(costs.cache[:ends]), sum(costs.cache[n_layers - ends :]))
    return costs.reserved + costs.begin + sum(weights) + costs.end + 2 * cache


def cuts(first: int, last: int, n_workers: int) -> Iterator[list[tuple[int, int]]]:
    for inner in combinations_with_replacement(range(first, last + 1), n_workers - 1):
        yield list(pairwise((first, *inner, last)))


def scores(costs: ModelCosts, workers: Sequence[Worker], first: int, last: int) -> list[tuple[Fraction, Fraction]]:
    """Of all cuts that fit: the slowest stage's time, and that of all stages together."""
    found = []
    for cut in cuts(first, last, len(workers)):
        pairs = list(zip(workers, cut, strict=True))
        if all(total(costs, *part) <= worker.memory for worker, part in pairs):
            times = [time(costs, worker, *part) for worker, part in pairs]
            found.append((max(times), sum(times)))
    return found


def ends_that_fit(costs: ModelCosts, client_memory: int) -> list[int]:
    return [n for n in range(1, (len(costs.layers) - 1) // 2 + 1) if client_total(costs, n) <= client_memory]


sizes = st.integers(0, 40)


@st.composite
def models(draw: st.DrawFn) -> ModelCosts:
    n_layers = draw(st.integers(3, 12))
    listed = st.lists(sizes, min_size=n_layers, max_size=n_layers).map(tuple)
    return ModelCosts(draw(listed), draw(listed), draw(sizes), draw(sizes), draw(st.integers(0, 20)), draw(sizes))


workers_of = st.lists(
    st.builds(
        Worker,
        memory=st.integers(0, 400),
        read_speed=st.integers(1, 7),
        link_speed=st.none() | st.integers(1, 9),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(models(), workers_of, st.integers(0, 400))
def test_no_other_cut_is_faster_and_what_is_refused_has_none(
    costs: ModelCosts, workers: list[Worker], client_memory: int
) -> None:
    n_layers = len(costs.layers)
    usual = max(1, n_layers // 12)
    held = ends_that_fit(costs, client_memory)
    wanted = [ends for ends in held if ends >= usual] or held[-1:]
    possible = {ends: scores(costs, workers, ends, n_layers - ends) for ends in wanted}
    fitting = [ends for ends, found in possible.items() if found]
    if not fitting:
        with pytest.raises(DoesNotFit):
            propose(costs, workers, client_memory)
        return

    placement = propose(costs, workers, client_memory)

    ends = fitting[0]
    assert (placement.plan.first, placement.plan.last) == (ends, n_layers - ends)
    assert [i for stage in placement.stages for i in stage.layers] == list(range(ends, n_layers - ends))
    assert [stage.worker for stage in placement.stages] == sorted({stage.worker for stage in placement.stages})
    times = [time(costs, workers[s.worker], s.layers.start, s.layers.stop) for s in placement.stages]
    assert (max(times), sum(times)) == min(possible[ends])
    for stage, exact in zip(placement.stages, times, strict=True):
        assert stage.total == total(costs, stage.layers.start, stage.layers.stop) <= workers[stage.worker].memory
        assert stage.total == costs.reserved + stage.weights + stage.cache
        assert stage.step_seconds == pytest.approx(float(exact))
    assert placement.client_total == client_total(costs, ends) <= client_memory


@settings(max_examples=300, deadline=None)
@given(models(), workers_of, st.integers(0, 400))
def test_what_is_said_to_be_missing_is_enough_and_nothing_less_is(
    costs: ModelCosts, workers: list[Worker], client_memory: int
) -> None:
    try:
        propose(costs, workers, client_memory)
    except DoesNotFit as refused:
        error = refused
    else:
        return
    assert error.missing > 0

    def fits_with(more: int) -> bool:
        try:
            if error.worker is None:
                propose(costs, [Worker(PLENTY, 1)], client_memory + more)
            else:
                grown = list(workers)
                grown[error.worker] = replace(grown[error.worker], memory=grown[error.worker].memory + more)
                propose(costs, grown, client_memory)
        except DoesNotFit:
            return False
        return True

    assert fits_with(error.missing)
    assert not fits_with(error.missing - 1)


def test_equal_workers_share_the_layers_evenly() -> None:
    placement = propose(even(26), [Worker(PLENTY, 1)] * 3, PLENTY)

    assert sorted(len(stage.layers) for stage in placement.stages) == [7, 7, 8]


def test_a_small_worker_gets_what_it_can_hold() -> None:
    placement = propose(even(12), [Worker(PLENTY, 1), Worker(220, 1)], PLENTY)

    assert layers(placement) == [(0, 1, 9), (1, 9, 11)]


def test_a_fast_worker_gets_more() -> None:
    assert layers(propose(even(11), [Worker(PLENTY, 2), Worker(PLENTY, 1)], PLENTY)) == [(0, 1, 7), (1, 7, 10)]


def test_a_slow_link_counts_as_much_as_the_layers_that_its_worker_could_have_read() -> None:
    # two rows of 100 bytes in and out take as long as four layers
    costs = even(14, hop=100)

    assert layers(propose(costs, [Worker(PLENTY, 100), Worker(PLENTY, 100, 50)], PLENTY)) == [(0, 1, 9), (1, 9, 13)]


def test_a_worker_whose_link_takes_longer_than_all_layers_gets_none() -> None:
    costs = even(14, hop=10_000)

    assert layers(propose(costs, [Worker(PLENTY, 100, 1), Worker(PLENTY, 100)], PLENTY)) == [(1, 1, 13)]


def test_the_client_keeps_fewer_layers_if_it_is_small_and_more_if_the_workers_are() -> None:
    costs = even(36)

    assert propose(costs, [Worker(PLENTY, 1)], PLENTY).plan.layers == "3-33"
    assert propose(costs, [Worker(PLENTY, 1)], 2 * 2 * 110).plan.layers == "2-34"
    assert propose(costs, [Worker(20 * 110, 1)], PLENTY).plan.layers == "8-28"


def test_the_client_sets_aside_as_much_for_each_end_as_the_larger_takes() -> None:
    costs = ModelCosts((10, 10, 10), (1, 1, 7), 5, 6, 3, 0)
    placement = propose(costs, [Worker(PLENTY, 1)], PLENTY)

    assert (placement.client_weights, placement.client_cache, placement.client_total) == (31, 14, 48)


def test_a_client_that_is_too_small_is_told_how_much_it_lacks() -> None:
    costs = ModelCosts((GIB,) * 3, (0,) * 3, GIB, GIB, 0, 0)

    with pytest.raises(DoesNotFit, match=r"client lacks 1024 MiB.*take 4096 MiB; give it more memory") as refused:
        propose(costs, [Worker(PLENTY, 1)], 3 * GIB)
    assert (refused.value.worker, refused.value.missing) == (None, GIB)


def test_workers_that_are_too_small_are_told_which_lacks_the_least() -> None:
    costs = ModelCosts((GIB,) * 9, (0,) * 9, 0, 0, GIB // 2, 0)
    workers = [Worker(GIB, 1), Worker(4 * GIB + GIB // 4, 1), Worker(GIB // 4, 1)]

    with pytest.raises(DoesNotFit) as refused:
        propose(costs, workers, 3 * GIB)

    assert (refused.value.worker, refused.value.missing) == (1, 3 * GIB + GIB // 4)
    said = "worker 2 of 3 lacks 3328 MiB for layers 1-8, which no other can hold; give it 7680 MiB, add a worker"
    assert said in str(refused.value)


def test_the_memory_that_is_asked_for_is_enough_though_it_is_rounded() -> None:
    costs = ModelCosts((11 * GIB + 1,) * 3, (0,) * 3, 0, 0, 0, 0)

    with pytest.raises(DoesNotFit) as refused:
        propose(costs, [Worker(1, 1)], PLENTY)

    asked = re.search(r"give it ([0-9.]+) GiB", str(refused.value))
    assert asked is not None
    propose(costs, [Worker(int(float(asked[1]) * GIB), 1)], PLENTY)


def test_a_model_that_cannot_be_cut_has_no_placement() -> None:
    with pytest.raises(BadPlan, match="at least 3"):
        propose(even(2), [Worker(PLENTY, 1)], PLENTY)


def test_the_largest_models_are_placed_at_once() -> None:
    """126 layers over 16 workers: a bound for hangs."""
    workers = [Worker(60 * 110, 10**9 + i, 10**8 + i) for i in range(16)]

    assert len(propose(even(126, hop=1), workers, PLENTY).stages) == 16
