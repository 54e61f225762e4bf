"""Trips in milliseconds."""

import pytest

from splitlearn_client.frame_shape import FrameShape
from splitlearn_client.speculation.draft_length import DraftLength


def best_length(
    probability: float, plain: float, per_guess: float, most: int, n_others: int = 0, interval: float = 0
) -> int:
    paced = FrameShape(interval=interval).paced
    length = DraftLength(plain, per_guess, most, n_others, paced, delay=per_guess)
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


@pytest.mark.parametrize(
    ("probability", "plain", "per_guess", "interval", "length"),
    [
        # what runs while the frame waits anyway costs nothing
        (0.1, 10, 1, 0, 0),
        (0.1, 10, 1, 50, 1),
        (0.5, 10, 5, 0, 0),
        (0.5, 10, 5, 50, 4),
        # guesses that make the frame miss its time take a whole interval
        (0.5, 19, 2, 0, 2),
        (0.5, 19, 2, 20, 0),
        # which pays where several of them are right
        (0.9, 19, 2, 20, 7),
        # and up to the next time further ones are free
        (0.5, 10, 6, 20, 1),
        (0.9, 10, 6, 20, 5),
        (0.8, 10, 9, 20, 1),
        # an interval that is shorter than anything is as good as none
        (0.5, 10, 1, 0.001, 2),
    ],
)
def test_a_token_waits_until_its_frame_s_time(
    probability: float, plain: float, per_guess: float, interval: float, length: int
) -> None:
    assert best_length(probability, plain, per_guess, 7, interval=interval) == length


@pytest.mark.parametrize("n_others", [0, 1, 3])
@pytest.mark.parametrize("per_guess", [0.01, 0.3, 1.0, 4.0, 12.0])
def test_without_an_interval_each_guess_pays_by_itself(per_guess: float, n_others: int) -> None:
    for probability in (0.02, 0.2, 0.5, 0.8, 0.95, 1.0):
        tokens, chance, length = 1.0, 1.0, 0
        while length < 7 and not (n_others and (length + 1) * (n_others + 1) * per_guess > 10 * (1 / 0.95 - 1)):
            chance *= probability
            before, after = 10 + length * per_guess, 10 + (length + 1) * per_guess
            if (n_others + tokens + chance) / after < 1.02 * (n_others + tokens) / before:
                break
            tokens, length = tokens + chance, length + 1
        assert best_length(probability, 10, per_guess, 7, n_others) == length


def test_guesses_that_only_pay_with_others_behind_them_are_not_sent_alone() -> None:
    length = DraftLength(19, 2, 7, paced=FrameShape(interval=20).paced)
    # likely as it is, the first one makes the frame miss its time, and what comes behind it is not likely
    assert [length.takes(each) for each in (0.9, 0.05)] == [True, False]
    assert length.length == 0

    length = DraftLength(19, 2, 7, paced=FrameShape(interval=20).paced)
    assert [length.takes(each) for each in (0.9, 0.9, 0.05)] == [True, True, False]
    assert length.length == 2


@pytest.mark.parametrize("n_others", [1, 3, 15])
def test_all_who_share_the_steps_keep_their_pace_if_all_guess_as_much(n_others: int) -> None:
    for per_guess in (0.01, 0.05, 0.2, 1.0):
        length = best_length(0.95, 10, per_guess, 7, n_others)
        assert (n_others + 1) * length * per_guess <= 10 * (1 / 0.95 - 1) + 1e-9


@pytest.mark.parametrize(("delay", "length"), [(0.0, 7), (0.2, 1), (0.3, 0)])
def test_others_wait_for_what_is_computed_and_not_for_a_guess_s_way(delay: float, length: int) -> None:
    draft = DraftLength(10, 0.3, 7, n_others=1, delay=delay)
    while draft.takes(0.95):
        pass
    assert draft.length == length


def test_no_more_than_there_are() -> None:
    assert [best_length(1.0, 10, 0.1, most) for most in (0, 1, 4)] == [0, 1, 4]


def test_guesses_are_taken_while_each_pays_by_its_own_probability() -> None:
    length = DraftLength(10, 1, 7)
    assert [length.takes(each) for each in (0.9, 0.9, 0.05)] == [True, True, False]
    assert length.length == 2


@pytest.mark.parametrize(("n_others", "rate"), [(0, (1 + 0.9 + 0.81) / 10.02), (1, (2 + 0.9 + 0.81) / 10.02)])
def test_the_rate_is_that_of_what_was_taken(n_others: int, rate: float) -> None:
    length = DraftLength(10, 0.01, 2, n_others)
    assert length.rate == pytest.approx((1 + n_others) / 10)
    while length.takes(0.9) and length.length < 2:
        pass
    assert length.length == 2
    assert length.rate == pytest.approx(rate)
