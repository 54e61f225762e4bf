from random import Random
from statistics import median

import pytest

from splitlearn_client.speculation.draft_length import DraftLength
from splitlearn_client.speculation.trip_cost import DraftCost, TripCost


def test_nothing_is_known_before_the_first_trip() -> None:
    assert TripCost().plain is None
    assert TripCost().per_guess == 0


def test_a_guess_counts_as_a_share_of_a_trip_before_one_was_measured() -> None:
    cost = TripCost()
    cost.learn(0, 0.1)
    assert cost.per_guess == pytest.approx(0.01)


def test_both_costs_become_what_was_measured() -> None:
    cost = TripCost()
    for n in range(200):
        n_guesses = n % 4
        cost.learn(n_guesses, 0.1 + 0.003 * n_guesses)
    assert cost.plain == pytest.approx(0.1)
    assert cost.per_guess == pytest.approx(0.003, rel=0.05)


def test_a_trip_that_was_held_up_counts_little() -> None:
    cost = TripCost()
    cost.learn(0, 0.1)
    cost.learn(0, 30.0)
    assert cost.plain is not None
    assert cost.plain < 0.2
    cost.learn(1, 30.0)
    assert cost.per_guess < 0.2


def test_guesses_that_seemed_too_dear_are_tried_again() -> None:
    cost = TripCost()
    cost.learn(0, 0.01)
    for _ in range(40):
        cost.learn(7, 0.5)
    assert not DraftLength(cost.plain or 0, cost.per_guess, 7).takes(0.3)
    for _ in range(200):
        cost.learn(0, 0.01)
    assert DraftLength(cost.plain or 0, cost.per_guess, 7).takes(0.3)


def test_trips_with_guesses_that_are_faster_than_those_without_were_correct_that_estimate() -> None:
    cost = TripCost()
    cost.learn(0, 10.0)
    for _ in range(5000):
        cost.learn(7, 0.02)
    assert cost.plain == pytest.approx(0.02, rel=0.1)
    assert cost.per_guess >= cost.plain / 1000


@pytest.mark.parametrize("seconds", [0.0, 1e-300, 1e300])
def test_no_measurement_breaks_the_choice_of_a_length(seconds: float) -> None:
    cost = TripCost()
    for _ in range(50):
        cost.learn(0, 0.01)
        cost.learn(7, seconds, seconds)
        assert cost.plain is not None
        for n_others in (0, 15):
            DraftLength(max(cost.plain, 1e-9), cost.per_guess, 7, n_others, delay=cost.delay).takes(0.9)


def test_a_trip_with_guesses_before_one_without_says_nothing() -> None:
    cost = TripCost()
    cost.learn(3, 0.5)
    assert cost == TripCost()


def test_a_delay_counts_as_a_share_of_a_trip_before_one_was_measured() -> None:
    cost = TripCost()
    cost.learn(0, 0.1, 0.04)
    assert cost.delay == pytest.approx(0.01)


@pytest.mark.parametrize(("per_guess", "least", "most"), [(0.0, 0.0, 0.0002), (0.002, 0.0015, 0.0025)])
def test_only_computing_delays_others_and_steps_that_scatter_make_it_no_longer(
    per_guess: float, least: float, most: float
) -> None:
    cost, dice, found = TripCost(), Random(1), list[float]()
    for _ in range(2000):
        for n_guesses in (0, 0, 0, 7):
            computing = 0.04 * dice.uniform(0.8, 1.2) + per_guess * n_guesses
            # bytes take their time too
            cost.learn(n_guesses, 0.1 + computing + 0.01 * n_guesses, computing)
        found.append(cost.delay)
    assert least <= median(found) <= most
    assert cost.per_guess > 0.009


@pytest.mark.parametrize("n_sessions", [1, 4, 16])
def test_guesses_are_tried_in_one_of_33_steps_however_many_share_them(n_sessions: int) -> None:
    cost, n_due = TripCost(), 0
    for _ in range(330):
        for _ in range(n_sessions):
            n_due += cost.is_due(n_sessions - 1)
    assert n_due in (9, 10)


def test_guesses_stay_due_until_there_are_some() -> None:
    cost = TripCost()
    assert [cost.is_due(0) for _ in range(34)] == [False] * 32 + [True, False]
    for _ in range(32):
        cost.is_due(0)
    cost.not_tried()
    assert [cost.is_due(3) for _ in range(3)] == [True, False, False]


def test_what_a_guess_takes_to_make_becomes_what_was_measured() -> None:
    cost = DraftCost()
    for _ in range(50):
        cost.learn(0.002)
    cost.learn(5.0)
    assert 0.002 <= cost.seconds < 0.004
