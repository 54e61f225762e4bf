from splitlearn_comm.replicas.health import (
    FAULTS_TO_EJECT,
    FIRST_EJECTION_SECONDS,
    LONGEST_EJECTION_SECONDS,
    ReplicaHealth,
    ReplicaState,
)


def well() -> ReplicaHealth:
    health = ReplicaHealth()
    health.answered(is_serving=True, incompatibility=None)
    return health


def eject(health: ReplicaHealth, now: float) -> None:
    assert [health.faulted(now) for _ in range(FAULTS_TO_EJECT)] == [False] * (FAULTS_TO_EJECT - 1) + [True]


def test_a_new_replica_is_connecting_and_may_become_well() -> None:
    health = ReplicaHealth()
    assert (health.state(0.0), health.may_recover) == (ReplicaState.CONNECTING, True)
    assert health.reason == "the trunk has not answered yet"


def test_a_compatible_answer_makes_it_ready_whatever_was_before() -> None:
    for spoil in (ReplicaHealth.drains, lambda health: health.unreachable("gone")):
        health = well()
        spoil(health)
        assert health.state(0.0) is not ReplicaState.READY
        health.answered(is_serving=True, incompatibility=None)
        assert (health.state(0.0), health.reason) == (ReplicaState.READY, None)


def test_an_incompatible_one_says_why_and_does_not_recover_by_itself() -> None:
    health = ReplicaHealth()
    health.answered(is_serving=True, incompatibility="other weights")
    assert (health.state(0.0), health.reason, health.may_recover) == (ReplicaState.INCOMPATIBLE, "other weights", False)


def test_one_that_is_not_serving_gets_no_sessions() -> None:
    health = well()
    health.answered(is_serving=False, incompatibility=None)
    assert health.state(0.0) is ReplicaState.NOT_SERVING


def test_one_that_waits_for_its_next_stage_is_not_unreachable_and_says_what_it_waits_for() -> None:
    health = well()
    health.waits_for_others("the next stage is gone")
    assert (health.state(0.0), health.reason) == (ReplicaState.NOT_SERVING, "the next stage is gone")
    assert health.may_recover


def test_one_late_answer_of_a_replica_that_was_well_is_not_taken_for_its_end() -> None:
    health = well()
    health.answers_late("late")
    assert health.state(0.0) is ReplicaState.READY
    health.answers_late("late")
    assert (health.state(0.0), health.reason) == (ReplicaState.UNREACHABLE, "late")


def test_late_answers_with_one_in_time_between_them_do_not_add_up() -> None:
    health = well()
    for _ in range(5):
        health.answers_late("late")
        health.answered(is_serving=True, incompatibility=None)
    assert health.state(0.0) is ReplicaState.READY


def test_several_faulty_sessions_in_a_row_eject_it_for_a_time_that_doubles() -> None:
    health, now, seconds = well(), 100.0, FIRST_EJECTION_SECONDS
    for _ in range(10):
        eject(health, now)
        assert health.state(now) is ReplicaState.EJECTED
        assert health.state(now + 0.99 * seconds) is ReplicaState.EJECTED
        now += 1.01 * seconds
        assert health.state(now) is ReplicaState.READY
        seconds = min(2 * seconds, LONGEST_EJECTION_SECONDS)
    assert seconds == LONGEST_EJECTION_SECONDS


def test_one_session_that_hears_nothing_ejects_it_beyond_its_next_answer() -> None:
    health = well()
    assert health.fell_silent("silent", 100.0)
    assert (health.state(100.0), health.reason) == (ReplicaState.UNREACHABLE, "silent")
    # its device may be frozen, and not what answers polls
    health.answered(is_serving=True, incompatibility=None)
    assert health.state(100.0 + 0.99 * FIRST_EJECTION_SECONDS) is ReplicaState.EJECTED
    assert health.state(100.0 + 1.01 * FIRST_EJECTION_SECONDS) is ReplicaState.READY


def test_many_sessions_that_fall_silent_together_eject_it_once() -> None:
    health, now = well(), 100.0
    assert [health.fell_silent("silent", now) for _ in range(50)] == [True] + [False] * 49
    health.answered(is_serving=True, incompatibility=None)
    now += 1.01 * FIRST_EJECTION_SECONDS
    assert health.state(now) is ReplicaState.READY
    # it is frozen still, and so ejected for longer
    assert health.fell_silent("silent", now)
    health.answered(is_serving=True, incompatibility=None)
    assert health.state(now + 1.99 * FIRST_EJECTION_SECONDS) is ReplicaState.EJECTED


def test_a_good_session_between_faulty_ones_keeps_it() -> None:
    health = well()
    for _ in range(10 * FAULTS_TO_EJECT):
        assert not health.faulted(0.0)
        health.succeeded()
    eject(health, 0.0)
    health.succeeded()
    # and the next ejection is short again
    eject(health, 10.0)
    assert health.state(10.0 + 1.01 * FIRST_EJECTION_SECONDS) is ReplicaState.READY


def test_a_replica_that_is_ejected_and_then_gone_is_gone() -> None:
    health = well()
    eject(health, 0.0)
    health.unreachable("gone")
    assert health.state(0.0) is ReplicaState.UNREACHABLE
