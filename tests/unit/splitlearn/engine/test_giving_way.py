"""Idle sessions make way for those that wait. An owner is written as its names with slashes between them."""

from random import Random

import pytest

from splitlearn.engine.admission import Shortage
from splitlearn.engine.giving_way import LONG_AWAY_SECONDS, Admitted, giving_way
from splitlearn.engine.limits import Limits
from splitlearn.engine.owners import Owner
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.queue_forecast import Newcomer, QueueForecast
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler
from support.crowd import NeverLonger

PAGE_ROWS = 4
LONG_AGO = 60.0


def owner(text: str) -> Owner:
    return tuple(text.split("/"))


class Scene:
    """A scheduler, and for how long each of its sessions has been idle."""

    def __init__(self, n_seats: int, n_pages: int = 10_000, max_waiting: int = 1024) -> None:
        self.idle: dict[int, float] = {}
        limits = Limits(
            page_size=PAGE_ROWS, headroom=0, max_num_seqs=n_seats, queue_timeout=30.0, max_waiting=max_waiting
        )
        self.given = Scheduler(limits, PageAccounting(n_pages, PAGE_ROWS), idle_seconds=lambda n: self.idle.get(n, 0.0))
        self.given.admission.lengths = NeverLonger()

    def ask(self, session: int, whose: str, n_rows: int = 1) -> None:
        assert self.given.submit(ScheduledRequest(session, 0, n_rows, 1000, owner(whose))) is None

    def step(self) -> tuple[tuple[int, ...], set[int]]:
        """Those that are preempted, and those whose rows run."""
        decision = self.given.schedule(1000)
        assert self.given.pages.check_consistency() is None
        for slice_ in decision.slices:
            self.given.advance(slice_.session, slice_.length)
        return decision.preempted, {slice_.session for slice_ in decision.slices}

    def sit(self, sessions: range, whose: str, n_rows: int = 1, idle: float = LONG_AGO) -> None:
        """Sessions that have been idle for about so long since their rows have run."""
        for session in sessions:
            self.ask(session, whose, n_rows)
        assert self.step() == ((), set(sessions))
        # the first one for a little longer than the next one
        self.idle.update({session: idle and idle - number / 1000 for number, session in enumerate(sessions)})


def admitted(*sessions: tuple[str, int, float]) -> dict[int, Admitted]:
    return {number: Admitted(owner(text), use, idle) for number, (text, use, idle) in enumerate(sessions)}


# who gives way


def test_of_one_owner_the_one_that_has_been_idle_for_longest_gives_way_first() -> None:
    given = admitted(("a", 1, 10.0), ("a", 1, 30.0), ("a", 1, 20.0))
    assert list(giving_way(owner("a"), given)) == [1, 2, 0]


def test_the_owner_that_has_most_gives_way_first_and_only_as_long_as_it_has_more() -> None:
    given = admitted(*[("a", 1, 10.0)] * 4, *[("b", 1, 90.0)] * 3, ("c", 1, 0.0))
    victims = [given[number].owner[0] for number in giving_way(owner("c"), given)]
    assert (victims[0], sorted(victims)) == ("a", ["a", "a", "a", "b", "b"])


def test_many_names_inside_one_client_give_way_as_one() -> None:
    given = admitted(*[(f"many/{n}", 1, 10.0) for n in range(3)], ("few/x", 1, 90.0), ("few/y", 1, 90.0))
    first = next(giving_way(owner("new/x"), given))
    assert given[first].owner[0] == "many"


def test_nobody_gives_way_to_an_owner_that_has_as_much() -> None:
    given = admitted(("a", 1, 10.0), ("b", 1, 0.0))
    assert list(giving_way(owner("b"), given)) == []


def test_a_session_that_thinks_between_two_tokens_does_not_give_way() -> None:
    given = admitted(("a", 1, LONG_AWAY_SECONDS - 0.1), ("a", 1, 0.0))
    assert list(giving_way(owner("b"), given)) == []


@pytest.mark.parametrize("seed", range(20))
def test_each_gives_way_once_and_an_owner_that_has_nothing_gets_the_place_of_every_idle_one(seed: int) -> None:
    dice = Random(seed)
    sessions = [(dice.choice("aab") + "/" + dice.choice("xyz"), 1, dice.choice((0.0, 9.0, 12.0))) for _ in range(30)]
    given = admitted(*sessions)
    victims = list(giving_way(owner("c/x"), given))
    assert len(victims) == len(set(victims))
    left = {number: each for number, each in given.items() if number not in victims}
    assert not any(each.idle_seconds for each in left.values())


# seats


def test_a_stranger_s_silent_sessions_on_all_seats_make_way_at_once_for_another_client() -> None:
    scene = Scene(n_seats=256)
    scene.sit(range(256), "mallory")
    scene.idle[77] = 2 * LONG_AGO
    scene.ask(300, "alice")
    assert scene.step() == ((77,), {300})


def test_no_more_make_way_than_have_to() -> None:
    scene = Scene(n_seats=4)
    scene.sit(range(4), "mallory")
    scene.ask(10, "alice")
    scene.ask(11, "alice")
    preempted, ran = scene.step()
    assert (len(preempted), ran) == (2, {10, 11})


def test_a_client_with_many_busy_sessions_does_not_take_the_only_seat_of_another() -> None:
    scene = Scene(n_seats=4)
    scene.sit(range(1), "alice")
    scene.sit(range(1, 4), "mallory", idle=0.0)
    scene.ask(10, "mallory")
    assert scene.step() == ((), set())


def test_a_session_that_waits_takes_the_seat_of_an_older_one_of_its_own_client() -> None:
    scene = Scene(n_seats=2)
    scene.sit(range(2), "a")
    scene.ask(10, "a")
    assert scene.step() == ((0,), {10})


def test_a_session_that_has_just_run_keeps_its_seat_from_a_younger_one() -> None:
    scene = Scene(n_seats=2)
    scene.sit(range(2), "mallory", idle=LONG_AWAY_SECONDS - 0.001)
    scene.ask(10, "alice")
    assert scene.step() == ((), set())
    scene.idle[0] = LONG_AWAY_SECONDS
    assert scene.step() == ((0,), {10})


def test_without_anybody_who_waits_idle_sessions_keep_their_seats() -> None:
    scene = Scene(n_seats=4)
    scene.sit(range(4), "a")
    scene.ask(2, "a")
    assert scene.step() == ((), {2})
    assert scene.step() == ((), set())


def test_idle_sessions_that_come_back_wait_for_their_client_s_turn_and_not_before_all_others() -> None:
    """Whoever replays one session after the other on the seats of the others keeps nobody waiting."""
    scene = Scene(n_seats=4)
    scene.sit(range(4), "mallory")
    for session in range(10, 14):
        scene.ask(session, "mallory")
    assert scene.step() == ((0, 1, 2, 3), {10, 11, 12, 13})
    for session in range(4):
        scene.ask(session, "mallory")
    scene.ask(20, "alice")
    assert scene.step() == ((), set())
    scene.idle[12] = LONG_AGO
    assert scene.step() == ((12,), {20})


def test_one_that_was_preempted_in_its_work_still_comes_before_all_others() -> None:
    scene = Scene(n_seats=9, n_pages=6)
    scene.sit(range(2), "a", n_rows=12, idle=0.0)
    assert scene.given.submit(ScheduledRequest(0, 12, 1, 1000, owner("a"))) is None
    assert scene.step() == ((1,), {0})
    scene.ask(5, "b", 12)
    scene.ask(1, "a", 12)
    scene.given.remove(0)
    scene.given.pages.total = 3
    assert scene.step() == ((), {1})


def test_the_client_with_the_larger_share_of_seats_waits_though_it_takes_less_memory() -> None:
    scene = Scene(n_seats=4, n_pages=100)
    scene.sit(range(3), "mallory", idle=0.0)
    scene.sit(range(3, 4), "alice", n_rows=40, idle=0.0)
    scene.ask(10, "mallory")
    scene.ask(11, "alice")
    scene.given.remove(0)
    assert scene.step() == ((), {11})


def test_where_nobody_may_wait_idle_sessions_make_way_all_the_same() -> None:
    scene = Scene(n_seats=2, max_waiting=0)
    scene.sit(range(2), "mallory", idle=0.0)
    assert scene.given.submit(ScheduledRequest(10, 0, 1, 1000, owner("alice"))) == 10
    scene.idle[1] = LONG_AGO
    scene.ask(11, "alice")
    assert scene.step() == ((1,), {11})


# memory


def test_idle_sessions_make_way_where_memory_is_short_too() -> None:
    scene = Scene(n_seats=256, n_pages=9)
    scene.sit(range(3), "mallory", n_rows=12)
    scene.ask(10, "alice", 20)
    assert scene.step() == ((0, 1), {10})


def test_a_large_idle_session_makes_room_for_several_small_ones() -> None:
    scene = Scene(n_seats=256, n_pages=10)
    scene.sit(range(1), "mallory", n_rows=36, idle=2 * LONG_AGO)
    scene.sit(range(1, 2), "mallory", n_rows=4)
    scene.ask(10, "alice", 8)
    scene.ask(11, "alice", 8)
    assert scene.step() == ((0,), {10, 11})


def test_no_idle_session_is_preempted_if_all_together_are_not_enough() -> None:
    scene = Scene(n_seats=256, n_pages=9)
    scene.sit(range(2), "mallory", n_rows=12)
    scene.sit(range(2, 3), "bob", n_rows=12, idle=0.0)
    scene.ask(10, "alice", 28)
    assert scene.step() == ((), set())


# what those are told who come


def test_a_refusal_says_whether_seats_or_memory_are_short() -> None:
    seats, memory = Scene(n_seats=2), Scene(n_seats=256, n_pages=2)
    for scene in (seats, memory):
        scene.sit(range(2), "a", idle=0.0)
        scene.ask(10, "a")
        assert scene.given.is_waiting(10)
    assert (seats.given.shortage, memory.given.shortage) == (Shortage.SEAT, Shortage.MEMORY)


def test_nobody_is_refused_because_idle_sessions_stay_long() -> None:
    scene = Scene(n_seats=2)
    forecast = QueueForecast(scene.given.limits, scene.given.admission)
    scene.sit(range(2), "mallory", idle=0.0)
    for number in range(2):
        forecast.times.admitted(number, 0.0)
    forecast.times.admitted(9, 0.0)
    forecast.times.ended(9, 300.0)
    first, second = (Newcomer(number, 1000, owner("alice")) for number in (10, 11))
    assert forecast.why_not_wait(first, 100.0) == "a seat may not be free within 30 s"
    scene.idle = {0: LONG_AGO, 1: LONG_AGO}
    assert forecast.why_not_wait(first, 100.0) is None
    forecast.announced(first, 100.0)
    assert forecast.why_refused(second, 100.0) is None
