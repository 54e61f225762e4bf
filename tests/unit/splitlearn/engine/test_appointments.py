from random import Random

import pytest

from splitlearn.engine.appointments import Appointments
from splitlearn.engine.owners import Owner

A, B = ("a",), ("b",)


def test_a_session_that_comes_in_time_keeps_the_first_appointment_of_its_owner() -> None:
    it = Appointments()
    for due in (30.0, 10.0, 20.0):
        it.make(A, due)
    assert not it.keep(A, 9.9)
    assert not it.keep(B, 10.0)
    assert it.keep(A, 10.0)
    assert not it.keep(A, 12.0)
    assert it.keep(A, 22.9)
    assert it.count(A, 22.9) == 1


def test_a_place_is_kept_for_three_seconds() -> None:
    it = Appointments()
    it.make(A, 10.0)
    assert it.count(A, 12.9) == 1
    assert it.count(A, 13.0) == 0
    assert not it.keep(A, 13.0)


def test_those_until_a_time_are_counted() -> None:
    it = Appointments()
    for due in (10.0, 20.0, 30.0):
        it.make(A, due)
    it.make(B, 1.0)
    assert [it.count(A, 0.0, until) for until in (9.0, 10.0, 25.0, 99.0)] == [0, 1, 2, 3]


def test_so_many_are_kept_and_no_more() -> None:
    it = Appointments()
    for _ in range(10_000):
        it.make(A, 10.0)
    assert it.count(A, 0.0) == 4096
    assert it.count(A, 20.0) == 0
    it.make(B, 30.0)
    assert it.count(B, 20.0) == 1


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_a_plain_list(seed: int) -> None:
    dice, it = Random(seed), Appointments()
    plain: list[tuple[Owner, float]] = []
    now = 0.0
    for _ in range(300):
        now += dice.random()
        plain = [each for each in plain if each[1] > now - 3.0]
        owner = dice.choice((A, B))
        if dice.random() < 0.6:
            due = now + 10 * dice.random()
            it.make(owner, due)
            plain.append((owner, due))
        else:
            first = min((each for each in plain if each[0] == owner), key=lambda each: each[1], default=None)
            is_due = first is not None and first[1] <= now
            assert it.keep(owner, now) == is_due
            if first is not None and is_due:
                plain.remove(first)
        assert it.count(owner, now) == sum(each[0] == owner for each in plain)
        assert it.count(owner, now, now + 2) == sum(each[0] == owner and each[1] <= now + 2 for each in plain)
