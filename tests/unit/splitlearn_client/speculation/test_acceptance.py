import pytest

from splitlearn_client.speculation.acceptance import Expected, Seen, of_all_answers, of_one_answer
from splitlearn_client.speculation.drafter import LEVELS


def fresh() -> Seen:
    return of_one_answer(of_all_answers())


def test_before_anything_ran_surer_guesses_are_likelier() -> None:
    probabilities = [Expected().probability(level) for level in range(LEVELS)]
    assert probabilities == sorted(probabilities)
    assert 0 < probabilities[0] < probabilities[-1] < 1


@pytest.mark.parametrize(("n_right", "probability"), [(0, 0.0), (4, 1.0), (2, 2 / 3)])
def test_the_probability_becomes_what_was_seen(n_right: int, probability: float) -> None:
    acceptance = fresh()
    for _ in range(100):
        acceptance.learn(3, 4, n_right)
    assert acceptance.probability(3) == pytest.approx(probability, abs=0.1)


def test_guesses_behind_a_wrong_one_count_for_nothing() -> None:
    some, many = fresh(), fresh()
    some.learn(1, 2, 1)
    many.learn(1, 7, 1)
    assert [some.probability(level) for level in range(LEVELS)] == [many.probability(level) for level in range(LEVELS)]


def test_levels_know_nothing_of_each_other() -> None:
    acceptance = fresh()
    acceptance.learn(1, 7, 0)
    assert acceptance.probability(2) == Expected().probability(2)


def test_what_was_seen_long_ago_is_forgotten_while_nothing_is_tried() -> None:
    acceptance = fresh()
    for _ in range(100):
        acceptance.learn(5, 7, 0)
    low = acceptance.probability(5)
    for _ in range(1000):
        acceptance.forget(5)
    assert low < 0.2 < Expected().probability(5) - 0.1 < acceptance.probability(5)


def test_an_answer_begins_with_what_was_typical_of_others_and_soon_has_its_own() -> None:
    typical = of_all_answers()
    for _ in range(500):
        typical.learn(1, 1, 0)
    assert of_one_answer(typical).probability(1) < 0.05
    own = of_one_answer(typical)
    for _ in range(10):
        own.learn(1, 3, 3)
    assert own.probability(1) > 0.8
