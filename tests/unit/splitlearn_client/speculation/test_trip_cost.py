import pytest

from splitlearn_client.speculation.trip_cost import TripCost


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


def test_a_trip_with_guesses_before_one_without_says_nothing() -> None:
    cost = TripCost()
    cost.learn(3, 0.5)
    assert cost == TripCost()
