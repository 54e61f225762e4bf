"""Recordings are made by hand; seconds are those of a clock that began at 0."""

from itertools import accumulate

import pytest

from splitlearn_privacy.recording import Recorded, Setup
from splitlearn_privacy.timing import timing
from splitlearn_privacy.traffic import Frames

SETUP = Setup(Frames.PLAIN)


def recorded(*intervals: float, sizes: tuple[int, ...] = ()) -> Recorded:
    """A message at once, and one behind each interval."""
    times = tuple(accumulate(intervals, initial=0.0))
    return Recorded(sizes or (9,) * len(times), times)


def shares(some: list[Recorded], others: list[Recorded]) -> tuple[float, float, float]:
    found = timing(SETUP, some, others)
    assert (found.n_texts, found.setup) == (len(some), SETUP)
    return found.by_sizes.value, found.by_times.value, found.by_both.value


def test_answers_of_one_size_are_told_apart_by_their_times() -> None:
    quick, slow = recorded(0.1, 0.1), recorded(0.1, 0.2)

    assert shares([quick, slow], [recorded(0.11, 0.1), recorded(0.1, 0.19)]) == (0.5, 1.0, 1.0)


def test_answers_at_even_times_are_told_apart_by_their_sizes_alone() -> None:
    found = [recorded(0.5, 0.5, sizes=sizes) for sizes in ((9, 1, 1), (9, 2, 1))]

    assert shares(found, found) == (1.0, 0.5, 1.0)


def test_nothing_is_told_by_recordings_that_are_the_same() -> None:
    assert shares(4 * [recorded(0.1)], 4 * [recorded(0.3)]) == (0.25, 0.25, 0.25)


def test_an_answer_that_is_nearer_to_another_one_is_named_wrongly() -> None:
    one, other = recorded(0.1), recorded(0.2)

    assert shares([one, other], [other, one])[1:] == (0.0, 0.0)


def test_answers_with_other_numbers_of_messages_are_told_apart() -> None:
    some, others = [recorded(0.1), recorded(0.1, 0.1)], [recorded(0.1), recorded(0.3, 0.3)]

    # by the times alone, the last of them would be nearer to the first
    assert shares(some, others) == (1.0, 1.0, 1.0)


def test_one_message_that_was_held_up_does_not_outweigh_the_others() -> None:
    one, other = recorded(*6 * [0.1]), recorded(*6 * [0.14])
    held_up = recorded(*5 * [0.1], 60.0)

    assert shares([one, other], [held_up, other])[1] == 1.0


def test_what_neither_sizes_nor_times_tell_both_may() -> None:
    # the first and second have the same sizes, the second and third the same times
    found = [
        recorded(0.1, sizes=(9, 1)),
        recorded(0.2, sizes=(9, 1)),
        recorded(0.2, sizes=(9, 2)),
    ]

    assert shares(found, found) == pytest.approx((2 / 3, 2 / 3, 1.0))


def test_times_decide_only_where_sizes_leave_a_choice() -> None:
    one, other = recorded(0.1, sizes=(9, 1)), recorded(0.2, sizes=(9, 2))
    # as slow as the other one
    later = recorded(0.2, sizes=(9, 1))

    assert shares([one, other], [later, other]) == (1.0, 0.5, 1.0)


def test_recordings_of_each_time_are_named_by_those_of_the_other() -> None:
    # only the first of the other time is nearest to its own
    some, others = [recorded(0.1), recorded(0.4)], [recorded(0.15), recorded(0.12)]

    assert shares(some, others)[1] == pytest.approx((0 + 0 + 1 + 0) / 4)


def test_messages_at_one_moment_are_no_error() -> None:
    assert shares([recorded(0.0), recorded(0.1)], [recorded(0.0), recorded(0.1)])[1] == 1.0
