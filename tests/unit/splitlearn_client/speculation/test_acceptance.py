import pytest

from splitlearn_client.speculation.acceptance import Acceptance
from splitlearn_client.speculation.drafter import LEVELS


def test_before_anything_ran_surer_guesses_are_likelier() -> None:
    probabilities = [Acceptance().probability(level) for level in range(LEVELS)]
    assert probabilities == sorted(probabilities)
    assert 0 < probabilities[0] < probabilities[-1] < 1


@pytest.mark.parametrize(("n_right", "probability"), [(0, 0.0), (4, 1.0), (2, 2 / 3)])
def test_the_probability_becomes_what_was_seen(n_right: int, probability: float) -> None:
    acceptance = Acceptance()
    for _ in range(100):
        acceptance.learn(3, 4, n_right)
    assert acceptance.probability(3) == pytest.approx(probability, abs=0.1)


def test_guesses_behind_a_wrong_one_count_for_nothing() -> None:
    some, many = Acceptance(), Acceptance()
    some.learn(1, 2, 1)
    many.learn(1, 7, 1)
    assert some == many


def test_levels_know_nothing_of_each_other() -> None:
    acceptance = Acceptance()
    acceptance.learn(1, 7, 0)
    assert acceptance.probability(2) == Acceptance().probability(2)


def test_what_was_seen_long_ago_is_forgotten_while_nothing_is_tried() -> None:
    acceptance = Acceptance()
    for _ in range(100):
        acceptance.learn(5, 7, 0)
    low = acceptance.probability(5)
    for _ in range(1000):
        acceptance.forget(5)
    assert low < 0.2 < Acceptance().probability(5) - 0.1 < acceptance.probability(5)
