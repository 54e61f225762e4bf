"""Three replicas of the trunk: they share the load, and none is missed when it dies or is replaced."""

import threading
from collections.abc import Callable
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

REPLICAS = (1, 2, 3)
SCALE = ("--scale", f"trunk={len(REPLICAS)}")


def is_complete(stack: Stack) -> None:
    """Returns when the client uses all replicas."""
    eventually(lambda: ready_replicas(stack), lambda seen: seen == len(REPLICAS))


@pytest.fixture(scope="module")
def three_trunks(stack: Stack) -> Stack:
    """Two more come while the client runs, which finds them when it resolves the name again."""
    stack.up(*SCALE)
    is_complete(stack)
    return stack


def in_parallel(n_users: int, user: Callable[[], str]) -> list[str]:
    with ThreadPoolExecutor(n_users) as pool:
        return [each.result() for each in [pool.submit(user) for _ in range(n_users)]]


def test_a_trunk_that_is_killed_in_the_middle_of_answers_loses_nothing(three_trunks: Stack) -> None:
    def kill(n_chunks: int) -> None:
        if n_chunks == 1:
            docker("kill", "--signal", "KILL", f"{three_trunks.project}-trunk-1")

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
    before = [sessions(three_trunks, replica) for replica in REPLICAS]
    in_parallel(12, lambda: answered(three_trunks))
    opened = [sessions(three_trunks, replica) - old for replica, old in zip(REPLICAS, before, strict=True)]
    assert sum(opened) == 12
    assert min(opened) >= 1


def test_prometheus_finds_each_of_three_trunks(three_trunks: Stack) -> None:
    eventually(lambda: three_trunks.query('up{job="trunk"} == 1'), lambda found: len(found) == len(REPLICAS))


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
        with ThreadPoolExecutor(4) as pool:
            users = [pool.submit(user) for _ in range(4)]
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
    assert len(three_trunks.containers("trunk")) == len(REPLICAS)
    assert not {*old} & {*three_trunks.containers("trunk")}
    assert min(n_during) >= 4
    assert {*finished} == {expected}
