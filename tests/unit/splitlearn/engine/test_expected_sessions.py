"""Sessions that are expected: counted by owner, until they come or their time is over."""

from random import Random

import pytest

from splitlearn.engine.expected_sessions import ExpectedSessions
from splitlearn.engine.owners import Owner


def test_a_session_counts_until_its_time() -> None:
    expected = ExpectedSessions()
    expected.add(7, ("a",), until=10.0)
    assert expected.count(("a",), 9.9) == 1
    assert expected.count(("a",), 10.0) == 0


def test_a_session_that_has_come_counts_no_more_and_may_be_expected_again() -> None:
    expected = ExpectedSessions()
    expected.add(7, ("a",), until=10.0)
    expected.discard(7)
    expected.discard(7)
    assert expected.count(("a",), 0.0) == 0
    expected.add(8, ("a",), until=20.0)
    assert expected.count(("a",), 15.0) == 1


def test_only_the_sessions_of_the_same_owner_count() -> None:
    expected = ExpectedSessions()
    expected.add(1, ("a",), until=10.0)
    expected.add(2, ("b",), until=10.0)
    assert (expected.count(("a",), 0.0), expected.count(("b",), 0.0), expected.count(("c",), 0.0)) == (1, 1, 0)


def test_only_older_sessions_count_for_a_session() -> None:
    expected = ExpectedSessions()
    for session in (5, 3, 9):
        expected.add(session, ("a",), until=10.0)
    assert [expected.count(("a",), 0.0, before) for before in (3, 4, 9, 10)] == [0, 1, 2, 3]


def test_so_many_are_expected_and_no_more() -> None:
    expected = ExpectedSessions()
    for session in range(10_000):
        expected.add(session, ("a",), until=10.0)
    assert expected.count(("a",), 0.0) == 4096
    assert expected.count(("a",), 10.0) == 0
    expected.add(20_000, ("a",), until=20.0)
    assert expected.count(("a",), 10.0) == 1


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_a_plain_list(seed: int) -> None:
    dice, expected = Random(seed), ExpectedSessions()
    plain: dict[int, tuple[Owner, float]] = {}
    now, session = 0.0, 0
    for _ in range(300):
        now += dice.random()
        plain = {number: each for number, each in plain.items() if each[1] > now}
        if dice.random() < 0.6:
            session += dice.randint(1, 3)
            plain[session] = (dice.choice("ab"),), now + dice.uniform(0, 20)
            expected.add(session, *plain[session])
        elif plain:
            gone = dice.choice(list(plain))
            del plain[gone]
            expected.discard(gone)
        for owner in (("a",), ("b",)):
            before = dice.randint(0, session + 1)
            own = [number for number, each in plain.items() if each[0] == owner]
            assert expected.count(owner, now) == len(own)
            assert expected.count(owner, now, before) == sum(number < before for number in own)
