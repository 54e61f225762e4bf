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
    assert gathering.wait(0.05, 1, STEP) == 0


def test_the_first_of_many_waits_until_the_others_usually_come() -> None:
    gathering = used(range(16), 0.05)
    gathering.came(0, 0.045)
    assert gathering.wait(0.045, 1, STEP) == pytest.approx(0.005 + 0.25 * STEP)


def test_nobody_waits_once_all_are_there() -> None:
    gathering = used(range(4), 0.05)
    for session in range(4):
        gathering.came(session, 0.05)
    assert gathering.wait(0.05, 4, STEP) == 0


def test_many_do_not_wait_long_for_one() -> None:
    gathering = used(range(16), 0.05)
    for session in range(15):
        gathering.came(session, 0.01)
    assert gathering.wait(0.01, 15, STEP) == 0
    assert gathering.wait(0.045, 15, STEP) > 0


def test_nobody_waits_for_who_is_later_than_a_step_takes() -> None:
    gathering = used(range(2), 0.5)
    gathering.came(0, 0.1)
    assert gathering.wait(0.1, 1, STEP) == 0


def test_who_is_far_too_late_is_not_waited_for() -> None:
    gathering = used(range(2), 0.05)
    gathering.came(0, 0.07)
    assert gathering.wait(0.07, 1, STEP) == 0
    assert gathering.n_away(0.07, 1.0) == 1
    assert gathering.n_away(2.0, 1.0) == 0


def test_who_has_ended_is_not_waited_for() -> None:
    gathering = used(range(2), 0.05)
    gathering.came(0, 0.049)
    gathering.forget(1)
    assert gathering.wait(0.049, 1, STEP) == 0
    assert gathering.n_away(0.049, 1.0) == 0


def test_whose_habits_are_unknown_is_not_waited_for() -> None:
    gathering = Gathering()
    gathering.went(1, 0.0)
    assert gathering.wait(0.01, 1, STEP) == 0


def test_the_first_who_is_due_is_told() -> None:
    gathering = used(range(2), 0.05)
    assert gathering.next_due(0.02) == pytest.approx(0.03)
    assert gathering.next_due(0.09) == 0.0
    assert Gathering().next_due(0.0) is None
