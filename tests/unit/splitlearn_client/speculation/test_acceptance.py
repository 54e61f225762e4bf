import pytest

from splitlearn_client.speculation.acceptance import Expected, Seen, of_all_answers, of_one_answer
from splitlearn_client.speculation.drafter import LEVELS


def fresh() -> Seen:
    return of_one_answer(of_all_answers())


def test_before_anything_ran_surer_guesses_are_likelier() -> None:
    probabilities = [Expected().probability(level) for level in range(LEVELS)]
    assert probabilities == sorted(probabilities)
    assert 0 < probabilities[0] < probabilities[-1] < 1


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_probability_becomes_what_was_seen(share: float) -> None:
    acceptance = fresh()
    for n in range(200):
        acceptance.learn(3, right=n % 4 < 4 * share)
    assert acceptance.probability(3) == pytest.approx(share, abs=0.1)
    assert acceptance.overall == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_forecast_becomes_what_was_seen_whatever_the_level_was(share: float) -> None:
    acceptance = fresh()
    assert acceptance.forecast == 0.5
    for n in range(200):
        acceptance.learn(n % LEVELS, right=n // LEVELS % 4 < 4 * share)
    assert acceptance.forecast == pytest.approx(share, abs=0.1)


def test_levels_know_nothing_of_each_other() -> None:
    acceptance = fresh()
    acceptance.learn(1, right=False)
    assert acceptance.probability(2) == Expected().probability(2)


def test_an_answer_begins_with_what_was_typical_of_others_and_soon_has_its_own() -> None:
    typical = of_all_answers()
    for _ in range(500):
        typical.learn(1, right=False)
    assert of_one_answer(typical).probability(1) < 0.05
    assert of_one_answer(typical).forecast < 0.05
    own = of_one_answer(typical)
    for _ in range(30):
        own.learn(1, right=True)
    assert own.probability(1) > 0.8
    assert own.forecast > 0.8


def test_every_answer_gives_guesses_a_new_chance() -> None:
    typical = of_all_answers()
    for _ in range(500):
        typical.learn(1, right=False)
    assert of_one_answer(typical).overall == 0.5
