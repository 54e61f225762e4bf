import pytest

from splitlearn.engine.gathering import Gathering

STEP = 0.1


def used(sessions: range, away: float, *, at: float = 0.0) -> Gathering:
    """Sessions that went at `at`, and usually come back after `away` seconds."""
    gathering = Gathering()
    for session in sessions:
        gathering.went(session, at - 2 * away)
        gathering.came(session, at - away)
        gathering.went(session, at)
    return gathering


def test_a_session_alone_waits_for_nobody() -> None:
    gathering = used(range(1), 0.05)
    gathering.came(0, 0.05)
    assert gathering.wait(0.05, 0.05 + STEP) == 0


def test_the_first_of_many_waits_until_the_others_are_not_waited_for_any_more() -> None:
    gathering = used(range(16), 0.05)
    gathering.came(0, 0.05)
    assert gathering.wait(0.05, 0.05 + STEP) == pytest.approx(0.05)
    assert gathering.wait(0.08, 0.05 + STEP) == pytest.approx(0.02)
    assert gathering.wait(0.1001, 0.05 + STEP) == 0


def test_nobody_waits_longer_than_he_may() -> None:
    gathering = used(range(16), 0.05)
    gathering.came(0, 0.05)
    assert gathering.wait(0.05, 0.06) == pytest.approx(0.01)
    assert gathering.wait(0.06, 0.06) == 0


def test_nobody_waits_once_all_are_there() -> None:
    gathering = used(range(4), 0.05)
    for session in range(4):
        gathering.came(session, 0.05)
    assert gathering.wait(0.05, 0.05 + STEP) == 0


def test_many_wait_for_one_who_would_be_left_behind_in_each_round() -> None:
    gathering = used(range(15), 0.05)
    gathering.went(15, -0.1)
    gathering.came(15, -0.02)
    gathering.went(15, 0.0)
    for session in range(15):
        gathering.came(session, 0.05)
    assert gathering.wait(0.05, 0.05 + STEP) > 0.03
    gathering.came(15, 0.08)
    assert gathering.wait(0.08, 0.05 + STEP) == 0


def test_nobody_waits_for_who_is_due_after_the_step_would_have_been_over() -> None:
    gathering = used(range(1), 0.05)
    gathering.went(1, -1.0)
    gathering.came(1, -0.5)
    gathering.went(1, 0.0)
    gathering.came(0, 0.05)
    assert gathering.wait(0.05, 0.05 + STEP) == 0


@pytest.mark.parametrize("share", [0.5, 3.0])
def test_if_the_first_comes_earlier_or_later_than_usual_so_are_the_others_expected_to(share: float) -> None:
    gathering = used(range(2), 0.05)
    at = share * 0.05
    gathering.came(0, at)
    assert gathering.wait(at, at + 0.001) == pytest.approx(0.001)


def test_who_has_ended_is_not_waited_for() -> None:
    gathering = used(range(2), 0.05)
    gathering.came(0, 0.049)
    gathering.forget(1)
    assert gathering.wait(0.049, 0.049 + STEP) == 0
    assert gathering.n_away(0.049, 1.0) == 0


def test_whose_habits_are_unknown_is_not_waited_for() -> None:
    gathering = Gathering()
    gathering.went(1, 0.0)
    assert gathering.wait(0.01, 0.01 + STEP) == 0
    assert gathering.next_due(0.01) is None


def test_who_went_long_ago_does_not_count_as_away() -> None:
    gathering = used(range(2), 0.05)
    assert gathering.n_away(0.07, 1.0) == 2
    assert gathering.n_away(2.0, 1.0) == 0


def test_the_first_who_is_due_is_told_and_then_until_when_he_is_waited_for() -> None:
    gathering = used(range(2), 0.05)
    assert gathering.next_due(0.02) == pytest.approx(0.03)
    assert gathering.next_due(0.09) == pytest.approx(0.01)
    assert gathering.next_due(0.1) is None
    assert Gathering().next_due(0.0) is None
