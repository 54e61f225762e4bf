from random import Random

import pytest

from splitlearn.engine.waiting_sessions import WaitingSessions


def waiting(*sessions: tuple[int, str]) -> WaitingSessions:
    given = WaitingSessions()
    for session, tenant in sessions:
        given.add(session, tenant, is_returning=False)
    return given


def order(given: WaitingSessions) -> list[int]:
    """The order in which they are admitted if nobody's use changes."""
    taken = []
    while (session := given.next({})) is not None:
        given.take(session)
        taken.append(session)
    return taken


def test_of_one_tenant_the_session_that_was_opened_first_comes_first_even_if_it_came_last() -> None:
    assert order(waiting((5, ""), (3, ""), (9, ""), (1, ""))) == [1, 3, 5, 9]


def test_tenants_take_turns() -> None:
    assert order(waiting((1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"))) == [1, 4, 2, 5, 3]


def test_the_tenant_that_uses_least_comes_first() -> None:
    given = waiting((1, "a"), (2, "b"), (3, "c"))
    assert given.next({"a": 5, "b": 3, "c": 4}) == 2


def test_a_session_that_was_admitted_before_comes_before_all_others() -> None:
    given = waiting((1, "a"), (2, "b"))
    given.add(9, "a", is_returning=True)
    given.add(8, "b", is_returning=True)
    # a admitted one later than b
    assert order(given) == [8, 9, 2, 1]


def test_a_tenant_that_comes_again_does_not_come_before_one_that_has_waited() -> None:
    given = waiting((1, "a"), (2, "b"))
    given.take(1)
    given.add(3, "a", is_returning=False)
    assert order(given) == [2, 3]


def test_adding_and_removing_say_whether_it_may_be_another_session_s_turn() -> None:
    given = WaitingSessions()
    assert given.add(5, "a", is_returning=False)
    assert not given.add(6, "a", is_returning=False)
    assert given.add(4, "a", is_returning=False)
    assert given.add(7, "b", is_returning=False)
    assert not given.discard(6)
    assert given.discard(4)
    assert not given.discard(4)


def test_how_many_are_ahead_counts_the_turns_of_other_tenants() -> None:
    given = waiting(*((n, "a") for n in range(10)), (10, "b"), (11, "b"))
    assert given.n_ahead("a", {}, 0) == 1
    assert given.n_ahead("a", {}, 9) == 9 + 2
    assert given.n_ahead("b", {}, 10) == 1
    assert given.n_ahead("b", {"a": 4}, 10) == 0
    assert given.n_ahead("c", {}) == 2
    given.add(20, "a", is_returning=True)
    assert given.n_ahead("a", {}, 20) == 0
    assert given.n_ahead("c", {}) == 3


def test_the_last_session_of_the_tenant_with_most_gives_its_place_up_to_a_tenant_with_fewer() -> None:
    given = waiting(*((n, "a") for n in range(4)), (10, "b"))
    assert given.to_displace("b") == 3
    assert given.to_displace("a") is None
    assert waiting((1, "a"), (2, "a"), (3, "b")).to_displace("b") is None


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_lost_and_nothing_of_those_who_left_is_kept(seed: int) -> None:
    dice, given, present = Random(seed), WaitingSessions(), set[int]()
    for session in range(300):
        given.add(session, dice.choice("abc"), is_returning=dice.random() < 0.1)
        present.add(session)
        while present and dice.random() < 0.45:
            gone = dice.choice(sorted(present))
            dice.choice((given.discard, given.take))(gone)
            present.discard(gone)
        assert len(given) == len(present)
        assert given.oldest() == min(present, default=None)
    assert sorted(order(given)) == sorted(present)
    assert not any((given._tenants, given._returning, given._new, given._last_turn))
