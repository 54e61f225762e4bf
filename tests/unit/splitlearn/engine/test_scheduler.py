import pytest

from splitlearn.engine.giving_way import AWAY_SECONDS
from splitlearn.engine.limits import Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.scheduler import MAX_DECODE_ROWS, Decision, ScheduledRequest, Scheduler
from support.crowd import NeverLonger

PLENTY = 10_000


def scheduler(pages: int = PLENTY, **limits: int) -> Scheduler:
    limits = {"page_size": 4, "headroom": 0, **limits}
    pages_of_all = PageAccounting(pages, limits["page_size"])
    return optimistic(Scheduler(Limits(**limits), pages_of_all, idle_seconds=lambda _: AWAY_SECONDS))


def optimistic(given: Scheduler) -> Scheduler:
    """Admits sessions by what they have, so that they have to be preempted when they grow."""
    given.admission.lengths = NeverLonger()
    return given


def prompt(session: int, n_rows: int, position: int = 0) -> ScheduledRequest:
    return ScheduledRequest(session, position, n_rows, max_length=PLENTY)


def token(session: int, position: int = 0) -> ScheduledRequest:
    return ScheduledRequest(session, position, 1, max_length=PLENTY)


def submit(given: Scheduler, *requests: ScheduledRequest) -> None:
    for request in requests:
        assert given.submit(request) is None


def run(given: Scheduler, prefill_budget: int) -> dict[int, int]:
    """One step without preemption; returns the rows of each session."""
    decision = given.schedule(prefill_budget)
    assert decision.preempted == ()
    for slice_ in decision.slices:
        given.advance(slice_.session, slice_.length)
    return counts(decision)


def counts(decision: Decision) -> dict[int, int]:
    return {slice_.session: slice_.length for slice_ in decision.slices}


# the next step


def test_all_sessions_that_decode_are_in_every_step_however_small_the_prefill_budget() -> None:
    given = scheduler()
    submit(given, *(token(n) for n in range(40)), prompt(40, 500))
    assert run(given, 16) == {**dict.fromkeys(range(40), 1), 40: 16}


def test_a_few_guesses_at_once_are_decoding_and_are_not_split() -> None:
    given = scheduler()
    submit(given, prompt(0, MAX_DECODE_ROWS), prompt(1, MAX_DECODE_ROWS + 1))
    assert run(given, 0) == {0: MAX_DECODE_ROWS}


def test_the_end_of_a_prompt_still_counts_as_prompt() -> None:
    given = scheduler()
    submit(given, prompt(0, 17))
    assert run(given, 16) == {0: 16}
    assert run(given, 0) == {}
    assert run(given, 16) == {0: 1}


def test_prompts_share_a_step_evenly() -> None:
    given = scheduler()
    submit(given, *(prompt(n, 1000) for n in range(4)))
    assert run(given, 100) == dict.fromkeys(range(4), 25)


def test_rows_that_short_prompts_leave_go_to_the_longer_ones() -> None:
    given = scheduler()
    submit(given, prompt(0, 1000), prompt(1, 10), prompt(2, 1000))
    assert run(given, 100) == {0: 45, 1: 10, 2: 45}


def test_a_step_is_filled_to_the_last_row() -> None:
    given = scheduler()
    submit(given, prompt(0, 1000), prompt(1, 1000), prompt(2, 1000))
    assert sum(run(given, 100).values()) == 100


def test_slices_follow_each_other_without_gaps_until_the_prompt_is_done() -> None:
    given = scheduler()
    submit(given, prompt(0, 50, position=7))
    seen = []
    while given.request(0) is not None:
        (slice_,) = given.schedule(16).slices
        seen.append((slice_.offset, slice_.length))
        assert given.advance(0, slice_.length) is (slice_.offset + slice_.length == 50)
    assert seen == [(0, 16), (16, 16), (32, 16), (48, 2)]


def test_where_prompts_outnumber_the_rows_the_oldest_go_first() -> None:
    given = scheduler()
    submit(given, prompt(0, 900), *(prompt(n, 20) for n in range(1, 10)))
    assert run(given, 4) == dict.fromkeys(range(4), 1)


def test_a_stream_of_short_prompts_does_not_starve_a_long_one() -> None:
    given = scheduler()
    submit(given, prompt(0, 200))
    newest = 0
    for _ in range(200):
        while sum(given.request(n) is not None for n in range(1, newest + 1)) < 20:
            newest += 1
            submit(given, prompt(newest, 9))
        run(given, 8)
        if given.request(0) is None:
            return
    pytest.fail("the long prompt did not come to its end in 200 steps")


def test_a_session_has_one_request_at_a_time() -> None:
    given = scheduler()
    submit(given, prompt(0, 20))
    with pytest.raises(ValueError, match="session 0 has a request already"):
        given.submit(token(0))


def test_a_dropped_request_is_not_run_and_the_session_stays_admitted() -> None:
    given = scheduler()
    submit(given, prompt(0, 20))
    run(given, 10)
    given.drop(0)
    given.drop(0)
    assert given.schedule(100).slices == ()
    assert given.pages.held_by(0) == 5


# admission


def test_a_session_is_admitted_when_its_rows_and_the_headroom_fit() -> None:
    given = scheduler(pages=10, headroom=8)
    submit(given, prompt(0, 20), prompt(1, 9))  # 7 pages with headroom, then 5: one too many
    assert set(run(given, 100)) == {0}
    assert (given.n_waiting, given.n_running) == (1, 1)
    given.remove(0)
    assert set(run(given, 100)) == {1}
    assert given.n_waiting == 0


def test_no_headroom_is_needed_beyond_what_a_session_may_hold() -> None:
    given = scheduler(pages=5, headroom=100)
    submit(given, ScheduledRequest(0, 0, 18, max_length=20))
    assert set(run(given, 100)) == {0}


def test_no_waiting_session_is_overtaken() -> None:
    given = scheduler(pages=10)
    submit(given, prompt(0, 24), prompt(1, 40), prompt(2, 4))
    assert set(run(given, 100)) == {0}  # 2 would fit, but 1 was there before
    given.remove(0)
    assert set(run(given, 100)) == {1}
    given.remove(1)
    assert set(run(given, 100)) == {2}


def test_the_session_that_was_opened_first_is_admitted_first_even_if_its_request_is_the_last() -> None:
    given = scheduler(pages=10)
    submit(given, prompt(0, 40), prompt(2, 40), prompt(1, 40))
    assert set(run(given, 100)) == {0}
    given.remove(0)
    assert set(run(given, 100)) == {1}


def test_pages_are_reserved_for_one_session_only() -> None:
    given = scheduler(pages=10)
    submit(given, prompt(0, 24), prompt(1, 24))
    assert set(run(given, 2)) == {0}
    assert given.n_waiting == 1


def test_no_more_sessions_are_running_than_max_num_seqs() -> None:
    given = scheduler(max_num_seqs=2)
    submit(given, *(token(n) for n in range(4)))
    assert set(run(given, 0)) == {0, 1}
    assert (given.n_running, given.n_waiting) == (2, 2)
    given.remove(0)
    assert set(run(given, 0)) == {2}


def test_past_max_waiting_new_requests_are_refused_and_admitted_sessions_go_on() -> None:
    given = scheduler(pages=2, max_waiting=1)
    submit(given, prompt(0, 8), prompt(1, 8))
    run(given, 100)
    assert given.submit(prompt(2, 8)) == 2
    assert given.request(2) is None
    assert given.n_waiting == 1
    submit(given, token(0, position=3))
    assert set(run(given, 100)) == {0}


def test_a_session_that_begins_with_cached_rows_holds_their_pages_at_once() -> None:
    given = scheduler(pages=10)
    assert given.admit(0, 9, PLENTY)
    assert given.pages.held_by(0) == 3
    assert not given.admit(1, 40, PLENTY)
    assert given.n_running == 1


def test_a_session_that_begins_with_cached_rows_does_not_overtake_waiting_ones() -> None:
    given = scheduler(pages=10)
    submit(given, prompt(0, 24), prompt(1, 40))
    run(given, 100)
    assert not given.admit(2, 4, PLENTY)


# preemption


def filled(given: Scheduler, n_sessions: int, n_rows: int) -> None:
    """Sessions whose prompts have been run."""
    submit(given, *(prompt(n, n_rows) for n in range(n_sessions)))
    while any(run(given, 1000)):
        pass


def test_the_youngest_is_preempted_when_an_older_one_grows() -> None:
    given = scheduler(pages=9)
    filled(given, 3, 12)
    submit(given, token(0, position=12), token(1, position=12), token(2, position=12))
    decision = given.schedule(0)
    assert decision.preempted == (2,)
    assert counts(decision) == {0: 1, 1: 1}
    assert given.pages.owners() == {0, 1}


def test_the_youngest_is_preempted_even_when_it_alone_grows() -> None:
    given = scheduler(pages=9)
    filled(given, 3, 12)
    submit(given, token(2, position=12))
    decision = given.schedule(0)
    assert (decision.preempted, decision.slices) == ((2,), ())
    assert given.pages.owners() == {0, 1}


def test_as_many_are_preempted_as_needed() -> None:
    given = scheduler(pages=9)
    filled(given, 3, 12)
    submit(given, prompt(0, 20, position=12))
    decision = given.schedule(1000)
    assert decision.preempted == (2, 1)
    assert counts(decision) == {0: 20}


def test_a_session_without_a_request_is_preempted_too() -> None:
    given = scheduler(pages=6)
    filled(given, 2, 12)
    submit(given, token(0, position=12))
    decision = given.schedule(0)
    assert (decision.preempted, counts(decision)) == ((1,), {0: 1})


def test_rows_that_replace_others_need_no_new_pages() -> None:
    given = scheduler(pages=6)
    filled(given, 2, 12)
    submit(given, prompt(0, 9, position=3))
    assert set(run(given, 100)) == {0}


def test_cached_prefixes_are_evicted_before_a_session_is_preempted() -> None:
    pages, wanted = PageAccounting(9, 4), []

    def evict(missing: int) -> int:
        wanted.append(missing)
        freed = pages.held_by(-1)
        pages.release(-1)
        return freed

    given = optimistic(Scheduler(Limits(page_size=4, headroom=0), pages, evict))
    filled(given, 2, 12)
    assert pages.reserve(-1, 12)
    submit(given, token(0, position=12))
    assert set(run(given, 0)) == {0}
    assert wanted == [1]
    submit(given, prompt(1, 30, position=12))
    decision = given.schedule(1000)
    assert decision.preempted == (1,)


def test_cached_prefixes_are_evicted_before_a_session_waits() -> None:
    pages = PageAccounting(9, 4)

    def evict(_: int) -> int:
        freed = pages.held_by(-1)
        pages.release(-1)
        return freed

    given = optimistic(Scheduler(Limits(page_size=4, headroom=0), pages, evict))
    pages.reserve(-1, 36)
    submit(given, prompt(0, 36))
    assert set(run(given, 100)) == {0}


def test_a_preempted_request_restarts_from_its_first_row_when_there_are_pages() -> None:
    given = scheduler(pages=9)
    filled(given, 1, 20)
    submit(given, prompt(1, 16))
    assert run(given, 10) == {1: 10}
    submit(given, token(0, position=20))
    assert given.schedule(0).preempted == (1,)
    given.restart(1)
    given.advance(0, 1)
    assert given.schedule(100).slices == ()
    given.remove(0)
    (slice_,) = given.schedule(100).slices
    assert (slice_.session, slice_.offset, slice_.length) == (1, 0, 16)


def preempted_one(given: Scheduler) -> None:
    """Leaves session 2 running with three pages; session 1 was preempted by a session that has been removed since."""
    filled(given, 2, 12)
    submit(given, prompt(0, 4 * given.pages.total - 20, position=12))
    assert given.schedule(100).preempted == (1,)
    given.remove(0)
    submit(given, prompt(2, 12))
    run(given, 100)


def test_a_waiting_session_preempts_a_younger_one_without_a_request() -> None:
    given = scheduler(pages=8)
    preempted_one(given)
    submit(given, prompt(1, 24))
    decision = given.schedule(100)
    assert (decision.preempted, counts(decision)) == ((2,), {1: 24})
    assert given.pages.owners() == {1}


def test_a_waiting_session_preempts_the_youngest_first() -> None:
    given = scheduler(pages=11)
    preempted_one(given)
    submit(given, prompt(3, 12))
    assert run(given, 100) == {3: 12}
    submit(given, prompt(1, 24))
    assert given.schedule(100).preempted == (3,)


def test_a_waiting_session_does_not_preempt_a_younger_one_with_rows_to_run() -> None:
    given = scheduler(pages=8)
    preempted_one(given)
    submit(given, prompt(1, 24), token(2, position=11))
    assert run(given, 100) == {2: 1}
    assert given.schedule(100).preempted == (2,)


def test_a_waiting_session_does_not_preempt_an_older_one() -> None:
    given = scheduler(pages=8)
    filled(given, 1, 20)
    submit(given, prompt(1, 16))
    assert run(given, 100) == {}


def test_no_session_is_preempted_if_that_would_not_be_enough() -> None:
    given = scheduler(pages=11)
    preempted_one(given)
    submit(given, prompt(3, 12))
    assert run(given, 100) == {3: 12}
    submit(given, prompt(1, 36), token(3, position=11))  # 2 has three pages and five are free, but nine are needed
    assert run(given, 100) == {3: 1}
    assert given.pages.owners() == {2, 3}


def test_a_waiting_session_preempts_a_younger_one_for_max_num_seqs_too() -> None:
    given = scheduler(pages=8, max_num_seqs=2)
    filled(given, 2, 16)
    submit(given, token(0, position=16))
    assert given.schedule(0).preempted == (1,)
    given.advance(0, 1)
    given.pages.total = 20
    submit(given, prompt(2, 12))
    run(given, 100)
    submit(given, token(1))
    decision = given.schedule(0)
    assert (decision.preempted, counts(decision)) == ((2,), {1: 1})


def test_a_preempted_session_may_wait_however_many_others_do() -> None:
    given = scheduler(pages=8, max_waiting=1)
    filled(given, 2, 16)
    submit(given, prompt(2, 16), token(0, position=16))
    assert given.schedule(0).preempted == (1,)
    assert given.submit(prompt(3, 8)) == 3
    assert given.submit(prompt(1, 16)) is None
    given.remove(1)
    assert given.submit(prompt(1, 16)) == 1  # it was closed, and is a stranger now
