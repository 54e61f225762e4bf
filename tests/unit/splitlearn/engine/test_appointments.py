from random import Random

import pytest

from splitlearn.engine.appointments import Appointments
from splitlearn.engine.owners import Owner

A, B = ("a",), ("b",)


def test_a_session_that_comes_in_time_keeps_the_first_appointment_of_its_owner() -> None:
    it = Appointments()
    for due in (30.0, 10.0, 20.0):
        it.make(A, due, 0.0)
    assert not it.keep(A, 9.9)
    assert not it.keep(B, 10.0)
    assert it.keep(A, 10.0)
    assert not it.keep(A, 12.0)
    assert it.keep(A, 22.9)
    assert it.count(A, 22.9) == 1


def test_a_place_is_kept_for_three_seconds() -> None:
    it = Appointments()
    it.make(A, 10.0, 0.0)
    assert it.count(A, 12.9) == 1
    assert it.count(A, 13.0) == 0
    assert not it.keep(A, 13.0)


def test_those_until_a_time_are_counted() -> None:
    it = Appointments()
    for due in (10.0, 20.0, 30.0):
        it.make(A, due, 0.0)
    it.make(B, 1.0, 0.0)
    assert [it.count(A, 0.0, until) for until in (9.0, 10.0, 25.0, 99.0)] == [0, 1, 2, 3]


def test_so_many_are_kept_and_no_more() -> None:
    it = Appointments()
    for _ in range(10_000):
        it.make(A, 10.0, 0.0)
    assert it.count(A, 0.0) == 4096


def test_appointments_of_an_owner_that_never_comes_again_leave_room_for_those_of_others() -> None:
    it = Appointments()
    for number in range(5_000):
        it.make(("a", str(number % 50)), 10.0, 0.0)
    it.make(B, 11.0, 1.0)
    assert it.count(B, 1.0) == 0
    it.make(B, 30.0, 20.0)
    assert it.count(B, 20.0) == 1
    assert set(it._lines) == {B}
    assert len(it._ends) == 1


def test_where_few_came_few_are_expected() -> None:
    it = Appointments()
    for second in range(1000):
        it.make(A, 10.0 + second, 0.0)
    it.make(B, 500.0, 0.0)
    assert it.count(A, 12.9) == 1000
    # one has not come, and then nine
    assert it.count(A, 13.0) == round(999 / 2)
    assert it.count(A, 21.0) == round(991 / 10)
    assert it.count(A, 400.0) == round(612 / 65)
    # whose own came is another matter
    assert it.count(B, 400.0) == 1


def test_where_they_come_again_after_all_they_are_expected_again() -> None:
    it = Appointments()
    for second in range(1000):
        it.make(A, 10.0 + second, 0.0)
    it.count(A, 200.0)
    for second in range(64):
        assert it.keep(A, 200.0 + second)
    # those of the last three seconds were late, and may still come
    assert it.count(A, 263.0) == 1000 - (188 + 64)


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_a_plain_list(seed: int) -> None:
    dice, it = Random(seed), Appointments()
    plain: dict[Owner, list[float]] = {A: [], B: []}
    came: dict[Owner, list[bool]] = {A: [], B: []}
    now = 0.0
    for _ in range(300):
        now += dice.random()
        for owner, due in plain.items():
            over = [each for each in due if each <= now - 3.0]
            came[owner] += [False] * len(over)
            plain[owner] = sorted(each for each in due if each > now - 3.0)
            if not plain[owner]:
                came[owner] = []
        owner = dice.choice((A, B))
        own = plain[owner]
        if dice.random() < 0.6:
            own.append(now + 10 * dice.random())
            it.make(owner, own[-1], now)
        else:
            is_due = bool(own) and own[0] <= now
            assert it.keep(owner, now) == is_due
            if is_due:
                own.pop(0)
                came[owner] = [*came[owner], True] if own else []
        share = (1 + sum(came[owner][-64:])) / (1 + len(came[owner][-64:]))
        assert it.count(owner, now) == round(share * len(own))
        assert it.count(owner, now, now + 2) == round(share * sum(due <= now + 2 for due in own))
