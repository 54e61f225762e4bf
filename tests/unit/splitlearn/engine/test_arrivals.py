import pytest

from splitlearn.engine.arrivals import ArrivalEstimator

STEP = 0.1


def estimator(sessions: range, away: float, *, at: float = 0.0) -> ArrivalEstimator:
    """Sessions whose output was sent at `at`, and that usually answer after `away` seconds."""
    arrivals = ArrivalEstimator()
    for session in sessions:
        arrivals.on_sent(session, at - 2 * away)
        arrivals.on_received(session, at - away)
        arrivals.on_sent(session, at)
    return arrivals


def test_a_session_alone_does_not_wait() -> None:
    arrivals = estimator(range(1), 0.05)
    arrivals.on_received(0, 0.05)
    assert arrivals.wait(0.05, 0.05 + STEP) == 0


def test_the_first_of_many_waits_until_the_others_are_given_up() -> None:
    arrivals = estimator(range(16), 0.05)
    arrivals.on_received(0, 0.05)
    assert arrivals.wait(0.05, 0.05 + STEP) == pytest.approx(0.05)
    assert arrivals.wait(0.08, 0.05 + STEP) == pytest.approx(0.02)
    assert arrivals.wait(0.1001, 0.05 + STEP) == 0


def test_no_session_waits_longer_than_it_may() -> None:
    arrivals = estimator(range(16), 0.05)
    arrivals.on_received(0, 0.05)
    assert arrivals.wait(0.05, 0.06) == pytest.approx(0.01)
    assert arrivals.wait(0.06, 0.06) == 0


def test_no_session_waits_once_all_have_arrived() -> None:
    arrivals = estimator(range(4), 0.05)
    for session in range(4):
        arrivals.on_received(session, 0.05)
    assert arrivals.wait(0.05, 0.05 + STEP) == 0


def test_many_wait_for_one_that_would_be_left_behind_in_each_round() -> None:
    arrivals = estimator(range(15), 0.05)
    arrivals.on_sent(15, -0.1)
    arrivals.on_received(15, -0.02)
    arrivals.on_sent(15, 0.0)
    for session in range(15):
        arrivals.on_received(session, 0.05)
    assert arrivals.wait(0.05, 0.05 + STEP) > 0.03
    arrivals.on_received(15, 0.08)
    assert arrivals.wait(0.08, 0.05 + STEP) == 0


def test_no_session_waits_for_one_that_is_due_after_the_step_would_be_over() -> None:
    arrivals = estimator(range(1), 0.05)
    arrivals.on_sent(1, -1.0)
    arrivals.on_received(1, -0.5)
    arrivals.on_sent(1, 0.0)
    arrivals.on_received(0, 0.05)
    assert arrivals.wait(0.05, 0.05 + STEP) == 0


@pytest.mark.parametrize("share", [0.5, 3.0])
def test_if_the_first_arrives_early_or_late_the_others_are_expected_to_do_so_too(share: float) -> None:
    arrivals = estimator(range(2), 0.05)
    at = share * 0.05
    arrivals.on_received(0, at)
    assert arrivals.wait(at, at + 0.001) == pytest.approx(0.001)


def test_a_session_that_has_ended_is_not_waited_for() -> None:
    arrivals = estimator(range(2), 0.05)
    arrivals.on_received(0, 0.049)
    arrivals.forget(1)
    assert arrivals.wait(0.049, 0.049 + STEP) == 0
    assert arrivals.n_outstanding(0.049, 1.0) == 0


def test_a_session_whose_usual_time_is_unknown_is_not_waited_for() -> None:
    arrivals = ArrivalEstimator()
    arrivals.on_sent(1, 0.0)
    assert arrivals.wait(0.01, 0.01 + STEP) == 0
    assert arrivals.next_due(0.01) is None


def test_a_session_whose_output_was_sent_long_ago_is_not_outstanding() -> None:
    arrivals = estimator(range(2), 0.05)
    assert arrivals.n_outstanding(0.07, 1.0) == 2
    assert arrivals.n_outstanding(2.0, 1.0) == 0


def test_next_due_is_the_first_arrival_and_if_that_is_late_the_time_it_is_given_up() -> None:
    arrivals = estimator(range(2), 0.05)
    assert arrivals.next_due(0.02) == pytest.approx(0.03)
    assert arrivals.next_due(0.09) == pytest.approx(0.01)
    assert arrivals.next_due(0.1) is None
    assert ArrivalEstimator().next_due(0.0) is None
