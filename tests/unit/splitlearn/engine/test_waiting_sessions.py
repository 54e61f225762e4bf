"""Whose turn it is. An owner is written as its names with slashes between them."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from splitlearn.engine.limits import Limits
from splitlearn.engine.owners import Owner, branches
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler
from splitlearn.engine.waiting_sessions import WaitingSessions


def owner(text: str) -> Owner:
    return tuple(text.split("/"))


def waiting(*sessions: tuple[int, str]) -> WaitingSessions:
    given = WaitingSessions()
    for session, text in sessions:
        given.add(session, owner(text), is_returning=False)
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
    assert given.next({("a",): 5, ("b",): 3, ("c",): 4}) == 2


def test_a_session_that_was_admitted_before_comes_before_all_others() -> None:
    given = waiting((1, "a"), (2, "b"))
    given.add(9, ("a",), is_returning=True)
    given.add(8, ("b",), is_returning=True)
    # a admitted one later than b
    assert order(given) == [8, 9, 2, 1]


def test_a_tenant_that_comes_again_does_not_come_before_one_that_has_waited() -> None:
    given = waiting((1, "a"), (2, "b"))
    given.take(1)
    given.add(3, ("a",), is_returning=False)
    assert order(given) == [2, 3]


def test_adding_and_removing_say_whether_it_may_be_another_session_s_turn() -> None:
    given = WaitingSessions()
    assert given.add(5, ("a",), is_returning=False)
    assert not given.add(6, ("a",), is_returning=False)
    assert given.add(4, ("a",), is_returning=False)
    assert given.add(7, ("b",), is_returning=False)
    assert not given.discard(6)
    assert given.discard(4)
    assert not given.discard(4)


def test_how_many_are_ahead_counts_the_turns_of_other_tenants() -> None:
    given = waiting(*((n, "a") for n in range(10)), (10, "b"), (11, "b"))
    assert given.n_ahead(("a",), {}, 0) == 1
    assert given.n_ahead(("a",), {}, 9) == 9 + 2
    assert given.n_ahead(("b",), {}, 10) == 1
    assert given.n_ahead(("b",), {("a",): 4}, 10) == 0
    assert given.n_ahead(("c",), {}, 30) == 2
    given.add(20, ("a",), is_returning=True)
    assert given.n_ahead(("a",), {}, 20) == 0
    assert given.n_ahead(("c",), {}, 30) == 3


def test_the_last_session_of_the_tenant_with_most_gives_its_place_up_to_a_tenant_with_fewer() -> None:
    given = waiting(*((n, "a") for n in range(4)), (10, "b"))
    assert given.to_displace(("b",)) == 3
    assert given.to_displace(("a",)) is None
    assert waiting((1, "a"), (2, "a"), (3, "b"), (4, "b")).to_displace(("b",)) is None


def test_one_place_of_two_goes_to_another_tenant_if_one_has_both() -> None:
    assert waiting((1, "a"), (2, "a"), (3, "b")).to_displace(("b",)) == 2


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_lost_and_nothing_of_those_who_left_is_kept(seed: int) -> None:
    dice, given, present = Random(seed), WaitingSessions(), set[int]()
    for session in range(300):
        given.add(session, (dice.choice("ab"), dice.choice("abc")), is_returning=dice.random() < 0.1)
        present.add(session)
        while present and dice.random() < 0.45:
            gone = dice.choice(sorted(present))
            dice.choice((given.discard, given.take))(gone)
            present.discard(gone)
        assert len(given) == len(present)
        assert given.oldest() == min(present, default=None)
    assert sorted(order(given)) == sorted(present)
    assert not any((given._owners, given._returning, given._new, given._inside))


# --- turns nest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        # two clients, one with three tenants: every other turn is the other's
        (["many/a", "many/b", "many/c", "many/a", "few/x", "few/x", "few/x"], [0, 4, 1, 5, 2, 6, 3]),
        # three levels: a stage that passes on sessions of two clients, and another client
        (["stage/p/a", "stage/p/b", "stage/q/a", "web/-/a", "web/-/a", "web/-/a"], [0, 3, 2, 4, 1, 5]),
        # a client alone: its tenants take turns, and it gets all
        (["many/a", "many/a", "many/b", "many/c"], [0, 2, 3, 1]),
        # tenants of the same name are different ones where their clients are
        (["web/a", "web/a", "lab/a"], [0, 2, 1]),
    ],
)
def test_clients_take_turns_and_within_a_client_its_tenants(sessions: list[str], expected: list[int]) -> None:
    assert order(waiting(*enumerate(sessions))) == expected


def test_use_is_compared_at_each_level() -> None:
    given = waiting((1, "many/a"), (2, "many/b"), (3, "few/x"))
    # the tenant that uses nothing is of the client that uses most
    assert given.next({("many",): 9, ("many", "a"): 9, ("few",): 8, ("few", "x"): 8}) == 3
    assert given.next({("many",): 7, ("many", "a"): 7, ("few",): 8, ("few", "x"): 8}) == 2


def test_how_many_are_ahead_is_no_more_for_all_tenants_that_another_client_claims() -> None:
    given = waiting(*((n, f"many/{n}") for n in range(100)), (100, "few/x"), (101, "few/x"))
    assert given.n_ahead(("few", "x"), {}, 100) == 1
    assert given.n_ahead(("few", "x"), {}, 101) == 1 + 2
    # one of each of the other 99 tenants, and the two of the other client in between
    assert given.n_ahead(("many", "7"), {}, 7) == 99 + 2
    assert given.n_ahead(("new", "x"), {}, 200) == 2
    assert given.n_ahead(("new", "x"), {("many",): 5, ("many", "0"): 5, ("few",): 1, ("few", "x"): 1}, 200) == 0


@pytest.mark.parametrize(
    ("sessions", "newcomer", "expected"),
    [
        # the client with most waiting sessions gives up the last one of its tenant with most
        (["many/a", "many/a", "many/b", "few/x"], "few/x", 1),
        (["many/a", "many/b", "many/c", "few/x"], "few/x", 0),
        # a client with most makes room for its own tenants
        (["many/a", "many/a", "many/a", "many/b", "few/x"], "many/b", 2),
        # a client with as many as any other gets no place by claiming another tenant
        (["many/a", "many/b", "few/x", "few/x"], "many/b", None),
        (["many/a", "many/b", "few/x"], "many/b", None),
    ],
)
def test_places_to_wait_are_given_up_first_by_the_client_with_most(
    sessions: list[str], newcomer: str, expected: int | None
) -> None:
    assert waiting(*enumerate(sessions)).to_displace(owner(newcomer)) == expected


@for_all(st.integers(1, 100), st.lists(st.integers(1, 5), min_size=1, max_size=100), st.randoms(use_true_random=False))
def test_each_of_two_clients_gets_half_of_the_admissions_however_many_tenants_one_claims(
    n_few: int, many: list[int], dice: Random
) -> None:
    owners = [("few", "x")] * n_few + [("many", str(tenant)) for tenant, n in enumerate(many) for _ in range(n)]
    dice.shuffle(owners)
    given = WaitingSessions()
    for session, each in enumerate(owners):
        given.add(session, each, is_returning=False)
    left, got = Counter(branch for each in owners for branch in branches(each)), Counter[Owner]()
    for session in order(given):
        if left["few",] and left["many",]:
            assert abs(got["few",] - got["many",]) <= 1
        shares = [got["many", str(tenant)] for tenant in range(len(many)) if left["many", str(tenant)]]
        assert max(shares, default=0) - min(shares, default=0) <= 1
        for branch in branches(owners[session]):
            left[branch] -= 1
            got[branch] += 1
    assert not +left


@for_all(st.integers(2, 12), st.integers(1, 20), st.randoms(use_true_random=False))
def test_a_free_place_goes_to_the_client_with_fewer_and_in_it_to_the_tenant_with_fewer(
    n_places: int, n_tenants: int, dice: Random
) -> None:
    scheduler = Scheduler(Limits(page_size=10, headroom=0), PageAccounting(10 * n_places, 10))
    owners: dict[int, Owner] = {}

    def come(each: Owner) -> None:
        owners[len(owners)] = each
        assert scheduler.submit(ScheduledRequest(len(owners) - 1, 0, 100, 100, each)) is None

    # alone, a client gets all places
    tenants = [("many", str(tenant)) for tenant in range(n_tenants)]
    for _ in range(n_places):
        come(dice.choice(tenants))
    assert scheduler.n_running == n_places
    for each in [*tenants, ("few", "x")] * (3 * n_places):
        come(each)
    for _ in range(2 * n_places):
        before = set(scheduler.admission.running)
        ends = dice.choice(sorted(before))
        has = Counter(branch for each in before - {ends} for branch in branches(owners[each]))
        scheduler.remove(ends)
        scheduler.schedule(100)
        (taken,) = set(scheduler.admission.running) - before
        client, tenant = branches(owners[taken])
        assert has[client] == min(has["few",], has["many",])
        if client == ("many",):
            assert has[tenant] == min(has[each] for each in tenants)
