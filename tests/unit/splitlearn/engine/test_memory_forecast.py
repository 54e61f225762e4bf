from random import Random

import pytest

from splitlearn.engine.memory_forecast import Growth, peak_pages


def test_no_session_needs_nothing() -> None:
    assert peak_pages([]) == 0


def test_sessions_in_their_prompts_are_counted_with_all_that_they_become() -> None:
    assert peak_pages([Growth(2, 10, False), Growth(3, 7, False)]) == 17


def test_a_session_alone_needs_what_it_becomes() -> None:
    assert peak_pages([Growth(2, 10, True)]) == 10


def test_sessions_that_grow_side_by_side_need_what_all_become() -> None:
    assert peak_pages([Growth(2, 10, True)] * 3) == 30


def test_a_session_that_ends_long_before_the_others_lets_them_have_its_pages() -> None:
    # when the first ends with 10 pages, the other has grown by about 1, and later needs 20
    assert peak_pages([Growth(9, 10, True), Growth(2, 20, True)]) == 20


@pytest.mark.parametrize("seed", range(50))
def test_it_is_enough_for_sessions_of_about_the_same_pace_and_never_more_than_all_become(seed: int) -> None:
    dice = Random(seed)
    growths = []
    for _ in range(dice.randint(1, 30)):
        now = dice.randint(0, 20)
        growths.append(Growth(now, now + dice.randint(0, 40), True))
    peak = peak_pages(growths)
    assert max(sum(each.now for each in growths), max(each.end for each in growths)) <= peak
    assert peak <= sum(each.end for each in growths)
    paces = [dice.uniform(1.0, 1.1) for _ in growths]
    for time in range(50):
        grown = [(each, each.now + int(time * pace)) for each, pace in zip(growths, paces, strict=True)]
        assert sum(now for each, now in grown if now <= each.end) <= peak, time
