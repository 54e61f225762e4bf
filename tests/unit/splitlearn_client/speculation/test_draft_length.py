"""Trips in milliseconds."""

import pytest

from splitlearn_client.speculation.draft_length import DraftLength


def best_length(probability: float, plain: float, per_guess: float, most: int, n_others: int = 0) -> int:
    length = DraftLength(plain, per_guess, most, n_others)
    while length.takes(probability):
        pass
    return length.length


@pytest.mark.parametrize(
    ("probability", "plain", "per_guess", "length"),
    [
        # far away a guess costs almost nothing
        (0.9, 90, 1, 7),
        (0.5, 90, 1, 4),
        (0.1, 90, 1, 1),
        (0.01, 90, 1, 0),
        # near, each has to pay for itself
        (0.9, 10, 1, 7),
        (0.5, 10, 1, 2),
        (0.1, 10, 1, 0),
        # where a guess costs a whole step nothing pays
        (0.9, 10, 10, 0),
        # the fifth of guesses that cost nothing would add a token in forty trips
        (0.5, 10, 0, 4),
        (0.0, 10, 0, 0),
        (1.0, 10, 1, 7),
    ],
)
def test_as_many_guesses_as_give_most_tokens_a_second(
    probability: float, plain: float, per_guess: float, length: int
) -> None:
    assert best_length(probability, plain, per_guess, 7) == length


@pytest.mark.parametrize("n_others", [1, 3, 15])
def test_all_who_share_the_steps_keep_their_pace_if_all_guess_as_much(n_others: int) -> None:
    for per_guess in (0.01, 0.05, 0.2, 1.0):
        length = best_length(0.95, 10, per_guess, 7, n_others)
        assert (n_others + 1) * length * per_guess <= 10 * (1 / 0.95 - 1) + 1e-9


def test_no_more_than_there_are() -> None:
    assert [best_length(1.0, 10, 0.1, most) for most in (0, 1, 4)] == [0, 1, 4]


def test_guesses_are_taken_while_each_pays_by_its_own_probability() -> None:
    length = DraftLength(10, 1, 7)
    assert [length.takes(each) for each in (0.9, 0.9, 0.05)] == [True, True, False]
    assert length.length == 2


@pytest.mark.parametrize(("n_others", "rate"), [(0, (1 + 0.9 + 0.81) / 12), (1, (2 + 0.9 + 0.81) / 12)])
def test_the_rate_is_that_of_what_was_taken(n_others: int, rate: float) -> None:
    length = DraftLength(10, 1, 7, n_others)
    assert length.rate == pytest.approx((1 + n_others) / 10)
    length = DraftLength(10, 1, 2, n_others, 2, 1 + 0.9 + 0.81)
    assert length.rate == pytest.approx(rate)
