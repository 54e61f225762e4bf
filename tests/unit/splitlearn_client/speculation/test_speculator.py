from collections.abc import Sequence

import pytest

from splitlearn.engine.scheduler import MAX_DECODE_ROWS
from splitlearn.engine.speculation import Speculation
from splitlearn_client.settings import ClientSettings
from splitlearn_client.speculation.drafter import Draft
from splitlearn_client.speculation.speculator import Speculators


class Counting:
    """Guesses that numbers go on."""

    def draft(self, ids: Sequence[int], most: int) -> Draft:
        return Draft(tuple(range(ids[-1] + 1, ids[-1] + 1 + most)), level=7)


def test_nothing_is_guessed_before_a_trip_was_measured() -> None:
    speculators = Speculators(Counting, most=4)
    first = speculators.new()
    assert first.guesses([1], 9, 0) == ()
    first.learn(0, 0, 0.1)
    assert first.guesses([1], 9, 0) == (2, 3, 4, 5)
    # another answer's trips are as long
    assert speculators.new().guesses([1], 9, 0) == (2, 3, 4, 5)


@pytest.mark.parametrize("most", [-1, 0, 2])
def test_no_more_is_guessed_than_is_of_use(most: int) -> None:
    speculator = Speculators(Counting, most=4).new()
    speculator.learn(0, 0, 0.1)
    assert len(speculator.guesses([1], most, 0)) == max(0, most)


def test_an_answer_in_which_guesses_are_wrong_does_without_and_tries_again_later() -> None:
    speculator = Speculators(Counting, most=7).new()
    speculator.learn(0, 0, 0.01)
    sent = []
    for _ in range(2000):
        guesses = speculator.guesses([1], 7, 0)
        speculator.learn(len(guesses), 0, 0.01 + 0.001 * len(guesses))
        sent.append(len(guesses))
    assert sent[0] > 3
    # wasted rows are few, and it never gives up for good
    assert sum(sent[100:]) < 0.1 * len(sent[100:]) * 7
    assert sum(sent[1000:]) > 0


@pytest.mark.parametrize(
    ("found", "rounds", "may"),
    [
        (Speculation.EXACT, False, True),
        (Speculation.ROUNDED, False, False),
        (Speculation.ROUNDED, True, True),
        (Speculation.NONE, True, False),
    ],
)
def test_guesses_run_where_they_change_nothing_or_rounding_is_allowed(
    found: Speculation, rounds: bool, may: bool
) -> None:
    assert Speculators(Counting, 4, rounds).new().may_guess(found) is may


def test_the_settings_allow_as_many_guesses_as_a_step_takes() -> None:
    assert ClientSettings.model_fields["num_speculative_tokens"].default == MAX_DECODE_ROWS - 1
