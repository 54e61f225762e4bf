"""Three replicas of the trunk: they share the load, and none is missed when it dies or is replaced."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.compose_stack import (
    Stack,
    answered,
    docker,
    eventually,
    failovers,
    ready_replicas,
    sessions,
    streamed,
)

pytestmark = pytest.mark.docker

N_TRUNKS = 3
# Of a rolling restart.
N_USERS = 3
SCALE = ("--scale", f"trunk={N_TRUNKS}")


def is_complete(stack: Stack) -> None:
    """Returns when the client uses all replicas."""
    eventually(lambda: ready_replicas(stack), lambda seen: seen == N_TRUNKS)


@pytest.fixture(scope="module")
def three_trunks(stack: Stack) -> Stack:
    """Two more come while the client runs, which finds them when it resolves the name again."""
    stack.up(*SCALE)
    is_complete(stack)
    return stack


def test_a_trunk_that_is_killed_in_the_middle_of_answers_loses_nothing(three_trunks: Stack) -> None:
    def kill(n_chunks: int) -> None:
        if n_chunks == 1:
            docker("kill", "--signal", "KILL", three_trunks.containers("trunk")[0])

    expected = answered(three_trunks)
    for _ in range(10):
        with ThreadPoolExecutor(8) as pool:
            others = [pool.submit(answered, three_trunks) for _ in range(7)]
            said = {answered(three_trunks, kill), *(other.result() for other in others)}
        assert said == {expected}
        three_trunks.up(*SCALE)
        is_complete(three_trunks)
        if failovers(three_trunks):
            return
    pytest.fail("no answer was in the middle when its trunk was killed")


def test_sessions_spread_over_three_trunks(three_trunks: Stack) -> None:
    before = sessions(three_trunks)
    with ThreadPoolExecutor(12) as pool:
        [*pool.map(answered, [three_trunks] * 12)]
    opened = [found - before[trunk] for trunk, found in sessions(three_trunks).items()]
    assert len(opened) == N_TRUNKS
    assert sum(opened) == 12
    assert min(opened) >= 1


def test_prometheus_finds_each_of_three_trunks(three_trunks: Stack) -> None:
    eventually(lambda: three_trunks.query('up{job="trunk"} == 1'), lambda found: len(found) == N_TRUNKS)


def test_replacing_each_trunk_in_turn_disturbs_no_stream(three_trunks: Stack) -> None:
    expected = answered(three_trunks)
    old = three_trunks.containers("trunk")
    finished: list[str] = []
    is_over = threading.Event()

    with three_trunks.openai() as client:

        def user() -> None:
            while not is_over.is_set():
                finished.append(streamed(client))

        n_during = []
        with ThreadPoolExecutor(N_USERS) as pool:
            users = [pool.submit(user) for _ in range(N_USERS)]
            try:
                for trunk in old:
                    n_before = len(finished)
                    docker("stop", trunk)
                    docker("rm", trunk)
                    # as docs/docker.md says
                    three_trunks.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", *SCALE, "trunk")
                    is_complete(three_trunks)
                    n_during.append(len(finished) - n_before)
            finally:
                is_over.set()
            for each in users:
                each.result()

    print(f"answers while each was replaced: {n_during}")
    assert len(three_trunks.containers("trunk")) == N_TRUNKS
    assert not {*old} & {*three_trunks.containers("trunk")}
    assert min(n_during) >= N_USERS
    assert {*finished} == {expected}
