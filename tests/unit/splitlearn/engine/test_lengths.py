from random import Random

import pytest

from splitlearn.engine.lengths import LengthEstimator


def ended(max_length: int, *lengths: int) -> LengthEstimator:
    given = LengthEstimator()
    for length in lengths:
        given.learn(max_length, length)
    return given


def test_before_sessions_have_ended_one_is_expected_to_reach_a_near_limit() -> None:
    assert LengthEstimator().expect(300, 20) == 300
    assert ended(300, 40).expect(300, 20) == 300


def test_before_sessions_have_ended_one_without_a_near_limit_is_expected_to_grow_by_1024_rows_or_to_double() -> None:
    assert LengthEstimator().expect(100_000, 20) == 1044
    assert LengthEstimator().expect(100_000, 5000) == 10_000


def test_sessions_that_reach_their_limit_are_expected_to_reach_it() -> None:
    assert ended(300, *[300] * 10).expect(260, 20) == 260


def test_of_sessions_that_end_long_before_their_limit_three_in_five_reach_no_more_than_expected() -> None:
    given = ended(4000, *range(100, 1100, 100))
    assert given.expect(4000, 20) == pytest.approx(600, abs=1)


def test_a_session_is_compared_to_those_that_became_longer_than_it_is() -> None:
    given = ended(4000, *range(100, 1100, 100))
    assert given.expect(4000, 550) == pytest.approx(800, abs=1)
    assert given.expect(4000, 2000) == 3000
    assert given.expect(4000, 3500) == 4000


def test_sessions_with_a_limit_of_their_own_say_nothing_about_those_without() -> None:
    given = ended(4000, *[200] * 20)
    for _ in range(20):
        given.learn(250, 250)
    assert given.expect(250, 20) == 250
    assert given.expect(4000, 20) == 200


def test_what_is_expected_follows_sessions_that_become_longer() -> None:
    given = ended(4000, *[100] * 500)
    for _ in range(32):
        given.learn(4000, 1000)
    assert given.expect(4000, 20) == 1000


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_less_than_a_session_has_nor_more_than_it_may_have(seed: int) -> None:
    dice, given = Random(seed), LengthEstimator()
    for _ in range(300):
        max_length = dice.choice((1, 2, 300, 4096, 1 << 20))
        n_rows = dice.randint(0, max_length)
        assert n_rows <= given.expect(max_length, n_rows) <= max_length
        given.learn(max_length, n_rows)
    assert all(len(each.ordered) == len(each.recent) <= 32 for each in given._ended.values())
    assert all(each.ordered == sorted(each.recent) for each in given._ended.values())
