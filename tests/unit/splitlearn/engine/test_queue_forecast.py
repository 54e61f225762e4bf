"""Sessions that are opened: who is refused at once, and when those who are refused should come again."""

import pytest

from splitlearn.engine.limits import Limits
from splitlearn.engine.owners import Owner
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.queue_forecast import Newcomer, QueueForecast
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler

ROWS = 100
"""Of each session; so many fit into ten pages."""


class Scene:
    """An engine's scheduler with memory for so many sessions, each of which stays for ten seconds.

    With 37.5 seconds as the longest wait, at most 25 may be expected.
    """

    def __init__(self, n_places: int, queue_timeout: float | None = 37.5, max_waiting: int = 1024) -> None:
        self.now, self.n_opened = 0.0, 0
        limits = Limits(page_size=10, headroom=0, max_waiting=max_waiting, queue_timeout=queue_timeout)
        self.scheduler = Scheduler(limits, PageAccounting(10 * n_places, 10), on_admitted=self._admitted)
        self.forecast = QueueForecast(limits, self.scheduler.admission)

    def _admitted(self, number: int) -> None:
        self.forecast.times.admitted(number, self.now)

    def newcomer(self, owner: Owner = ("", "")) -> Newcomer:
        self.n_opened += 1
        return Newcomer(self.n_opened, ROWS, owner)

    def come(self, owner: Owner = ("", "")) -> Newcomer:
        """Opens a session whose rows come at once."""
        session = self.newcomer(owner)
        assert self.scheduler.submit(ScheduledRequest(session.number, 0, ROWS, ROWS, owner)) is None
        return session

    def fill(self, n: int, owner: Owner = ("", "")) -> None:
        for _ in range(n):
            self.come(owner)

    def knows_stays(self) -> None:
        """One session has ended after ten seconds."""
        self.forecast.times.admitted(-1, -10.0)
        self.forecast.times.ended(-1, 0.0)

    def open(self, owner: Owner = ("", "")) -> float | None:
        """Opens a session that sends no rows yet; returns what it is told if it is refused."""
        session = self.newcomer(owner)
        if self.forecast.why_refused(session, self.now) is None:
            self.forecast.announced(session, self.now)
            return None
        return self.forecast.retry_after(session, self.now)


def test_whoever_finds_a_place_is_taken_whatever_the_bounds_say() -> None:
    scene = Scene(2, queue_timeout=0.0, max_waiting=0)
    scene.knows_stays()
    scene.fill(1)
    assert scene.open() is None


def test_a_session_that_would_wait_too_long_is_refused_when_it_is_opened() -> None:
    scene = Scene(2)
    scene.knows_stays()
    # two run, and four wait: the next one would wait for three stays of ten seconds
    scene.fill(6)
    why = scene.forecast.why_refused(scene.newcomer(), 0.0)
    assert why is not None
    assert why == "memory may not be free within 37.5 s"
    patient = Scene(2, queue_timeout=45.0)
    patient.knows_stays()
    patient.fill(6)
    assert patient.open() is None


def test_before_any_session_has_ended_nobody_is_refused_for_the_time() -> None:
    scene = Scene(2)
    scene.fill(30)
    scene.now = 1000.0
    assert scene.open() is None


def test_more_than_may_wait_are_refused() -> None:
    scene = Scene(1, queue_timeout=None, max_waiting=3)
    scene.fill(4)
    why = scene.forecast.why_refused(scene.newcomer(), 0.0)
    assert why is not None
    assert why.startswith("3 sessions wait")


def test_sessions_that_take_free_places_are_not_among_those_that_may_wait() -> None:
    scene = Scene(3, queue_timeout=None, max_waiting=2)
    scene.fill(1)
    assert [scene.open() is None for _ in range(6)] == [True] * 4 + [False] * 2


def test_sessions_that_were_opened_and_have_no_rows_yet_count_as_if_they_waited() -> None:
    scene = Scene(2)
    scene.knows_stays()
    scene.fill(2)
    answers = [scene.open() for _ in range(10)]
    assert [told is None for told in answers] == [True] * 4 + [False] * 6


def test_sessions_that_were_opened_take_the_free_places_first() -> None:
    scene = Scene(4)
    scene.knows_stays()
    scene.fill(2)
    answers = [scene.open() for _ in range(20)]
    # two places are free, and four at a time may wait twice
    assert sum(told is None for told in answers) == 2 + 8


def test_a_crowd_that_comes_to_an_idle_server_is_refused_too() -> None:
    scene = Scene(4)
    scene.knows_stays()
    # four run, and four at a time may wait twice
    assert sum(scene.open() is None for _ in range(50)) == 4 + 8


def test_a_session_without_rows_counts_for_a_second_or_until_they_come() -> None:
    scene = Scene(1, queue_timeout=7.5)
    scene.knows_stays()
    scene.fill(1)
    first = scene.newcomer()
    scene.forecast.announced(first, 0.0)
    # behind both: one more stay of ten seconds
    assert scene.forecast.why_refused(scene.newcomer(), 0.9) is not None
    assert scene.forecast.why_refused(scene.newcomer(), 6.0) is None
    scene.forecast.announced(second := scene.newcomer(), 6.0)
    assert scene.forecast.why_refused(scene.newcomer(), 6.0) is not None
    scene.forecast.came(second.number)
    assert scene.forecast.why_refused(scene.newcomer(), 6.0) is None


def test_those_who_are_refused_are_told_to_come_one_after_the_other() -> None:
    scene = Scene(2)
    scene.knows_stays()
    scene.fill(6)
    told = [scene.open() for _ in range(6)]
    assert told == [pytest.approx(seconds) for seconds in (30.0, 30.0, 40.0, 40.0, 50.0, 50.0)]


def test_who_is_told_by_another_server_as_well_does_not_count_twice() -> None:
    scene = Scene(2)
    scene.knows_stays()
    scene.fill(6)
    for _ in range(3):
        assert scene.forecast.retry_after(scene.newcomer(), 0.0, is_counted=False) == pytest.approx(30.0)


def test_who_was_told_to_come_again_counts_until_then() -> None:
    scene = Scene(1)
    scene.knows_stays()
    scene.fill(1)
    assert scene.forecast.retry_after(scene.newcomer(), 0.0) == pytest.approx(10.0)
    last = scene.newcomer()
    # after the one that runs, and the one that was told
    assert scene.forecast.retry_after(last, 9.0, is_counted=False) == pytest.approx(1.0 + 10.0)
    # the one that runs has stayed as long as any has: it is expected to stay as long again, and the other may be late
    assert scene.forecast.retry_after(last, 10.0, is_counted=False) == pytest.approx(20.0)
    assert scene.forecast.retry_after(last, 13.0, is_counted=False) == pytest.approx(13.0)


def test_whoever_comes_by_chance_comes_after_those_who_were_told_to_come_before() -> None:
    scene = Scene(1)
    scene.knows_stays()
    scene.fill(2)
    # one runs until 10, and another one waits: a third may wait until 20
    assert scene.forecast.why_refused(scene.newcomer(), 0.0) is None
    for _ in range(2):
        scene.forecast.retry_after(scene.newcomer(), -10.0)
    assert scene.forecast.why_refused(scene.newcomer(), 0.0) is not None


def test_who_comes_when_it_was_told_to_is_let_in_before_others_and_told_little_otherwise() -> None:
    scene = Scene(1, queue_timeout=90.0)
    scene.knows_stays()
    scene.fill(2)
    told = [scene.forecast.retry_after(scene.newcomer(), 0.0) for _ in range(5)]
    assert told == [pytest.approx(seconds) for seconds in (20.0, 30.0, 40.0, 50.0, 60.0)]
    owner = scene.newcomer().owner
    assert not scene.forecast.was_told(owner, 19.9)
    assert scene.forecast.was_told(owner, 20.5)
    # the one that runs has stayed for 20 s and is expected to stay as long again, then come the one that waits and it
    returned, other = Newcomer(99, ROWS, owner, was_told=True), Newcomer(99, ROWS, owner)
    assert scene.forecast.why_refused(returned, 20.5) is None
    assert scene.forecast.why_refused(other, 20.5) is not None
    assert scene.forecast.retry_after(returned, 20.5, is_counted=False) == pytest.approx(30.5)
    assert scene.forecast.retry_after(other, 20.5, is_counted=False) == pytest.approx(30.5 + 40.0)


def test_a_free_place_is_kept_for_nobody() -> None:
    scene = Scene(2)
    scene.knows_stays()
    scene.fill(1)
    for _ in range(100):
        scene.forecast.retry_after(scene.newcomer(), 0.0)
    assert scene.open() is None


def test_nobody_is_told_less_than_a_second_or_more_than_five_minutes() -> None:
    scene = Scene(1, queue_timeout=0.0)
    scene.fill(1)
    assert scene.forecast.retry_after(scene.newcomer(), 0.0) == 1.0
    scene.knows_stays()
    scene.fill(1000)
    assert scene.forecast.retry_after(scene.newcomer(), 0.0) == 300.0


def test_a_tenant_is_not_refused_for_what_another_has_announced() -> None:
    scene = Scene(2)
    scene.knows_stays()
    many, few = ("client", "many"), ("client", "few")
    scene.fill(2, many)
    assert [scene.open(many) is None for _ in range(8)] == [True] * 4 + [False] * 4
    assert scene.open(few) is None


def test_a_session_that_waits_too_long_is_known_by_those_before_it() -> None:
    scene = Scene(1)
    scene.knows_stays()
    scene.fill(1)
    second, third, fourth = (scene.come() for _ in range(3))
    may_wait = [scene.forecast.why_not_wait(session, 0.0) is None for session in (second, third, fourth)]
    assert may_wait == [True, True, False]


def test_who_may_wait_is_not_refused_if_it_takes_half_as_long_again() -> None:
    """The waiting session was expected to be admitted after 20 s, and is after 30."""
    scene = Scene(1, queue_timeout=30.0)
    scene.knows_stays()
    scene.fill(1)
    scene.come()
    third = scene.come()
    assert scene.forecast.why_not_wait(third, 0.0) is None
    impatient = Scene(1, queue_timeout=29.0)
    impatient.knows_stays()
    impatient.fill(1)
    impatient.come()
    assert impatient.forecast.why_not_wait(impatient.come(), 0.0) is not None


def test_a_client_with_a_hundred_tenants_does_not_make_another_one_wait_longer_than_its_turn() -> None:
    scene = Scene(2)
    scene.knows_stays()
    for tenant in range(100):
        scene.come(("many", str(tenant)))
    # two run, and 98 wait: the newcomer comes after one of them at most
    newcomer = scene.newcomer(("few", "x"))
    assert scene.forecast.why_refused(newcomer, 0.0) is None
    assert scene.forecast.retry_after(newcomer, 0.0) == pytest.approx(10.0)
    crowded = scene.newcomer(("many", "another"))
    assert scene.forecast.why_refused(crowded, 0.0) is not None
    # however many names it makes up: two at a time, ten seconds each
    assert scene.forecast.retry_after(crowded, 0.0, is_counted=False) == 300.0
