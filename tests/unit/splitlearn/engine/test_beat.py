from dataclasses import replace

import pytest

from splitlearn.engine.beat import Beat, Moment, Start
from splitlearn.engine.pace import Pace

STEP, ROW, AWAY = 0.1, 0.001, 0.05
NOBODY = Moment(now=0.0, n_ready=0, n_prompts=0)


def beat(*, in_batches: bool = True, n_away: int = 0) -> Beat:
    """Steps of 100 ms, 1 ms for a row of a prompt; sessions that went just now and usually come after 50 ms."""
    pace = Pace(most_rows=512)
    for _ in range(40):
        pace.learn(4, 0, STEP)
        pace.learn(4, 100, STEP + 100 * ROW)
    beat = Beat(pace, in_batches)
    for session in range(n_away):
        beat.gathering.went(session, -2 * AWAY)
        beat.gathering.came(session, -AWAY)
        beat.gathering.went(session, 0.0)
    return beat


def test_a_prompt_alone_begins_at_once_and_with_whole_steps() -> None:
    assert beat().start(replace(NOBODY, n_prompts=1)) == Start(0.0, 512)


def test_who_decodes_alone_begins_at_once() -> None:
    assert beat().start(replace(NOBODY, n_ready=1)).wait == 0


def test_the_first_waits_for_the_others_but_not_longer_than_a_step_takes() -> None:
    moment = replace(NOBODY, now=0.9 * AWAY, n_ready=1, since=0.9 * AWAY)
    assert 0 < beat(n_away=3).start(moment).wait <= STEP
    assert beat(n_away=3).start(replace(moment, now=1.9 * AWAY, since=1.9 * AWAY - STEP)).wait == 0


def test_a_step_that_takes_a_prompt_along_is_longer_and_so_may_be_the_wait_for_it() -> None:
    moment = replace(NOBODY, now=1.5 * AWAY, n_ready=1, since=1.5 * AWAY - STEP)
    assert beat(n_away=3).start(moment).wait == 0
    assert beat(n_away=3).start(replace(moment, n_prompts=1)).wait > 0


def test_where_sessions_do_not_share_a_step_nobody_waits_for_another() -> None:
    moment = replace(NOBODY, now=0.9 * AWAY, n_ready=1, since=0.9 * AWAY)
    assert beat(in_batches=False, n_away=3).start(moment).wait == 0


def test_a_prompt_is_run_between_tokens_as_far_as_the_time_reaches() -> None:
    between = replace(NOBODY, n_prompts=1, next_due=0.1)
    assert beat(n_away=3).start(between) == Start(0.0, 48)


def test_a_prompt_waits_for_those_whom_it_would_keep_waiting() -> None:
    between = replace(NOBODY, n_prompts=1, next_due=0.02)
    assert beat(n_away=3).start(between) == Start(0.02, 0)
    assert beat(in_batches=False, n_away=3).start(between) == Start(0.02, 0)


def test_a_prompt_waits_for_whom_another_engine_on_the_thread_expects() -> None:
    assert beat(n_away=1).start(replace(NOBODY, n_prompts=1, next_due=0.001)).wait == pytest.approx(0.001)


def test_on_cores_that_others_need_between_tokens_prompts_run_beside_tokens_only() -> None:
    between = replace(NOBODY, n_prompts=1, next_due=0.5, keeps_free=True)
    assert beat(n_away=3).start(between) == Start(0.5, 0)
    assert beat(n_away=3).start(replace(between, n_ready=1)).prompt_rows > 0


def test_nothing_is_kept_free_for_who_is_not_expected_soon() -> None:
    between = replace(NOBODY, n_prompts=1, next_due=20.0, keeps_free=True)
    assert beat(n_away=3).start(between) == Start(0.0, 512)


def test_prompts_go_on_when_those_who_were_expected_do_not_come() -> None:
    start = beat(n_away=3).start(replace(NOBODY, now=2.1 * AWAY, n_prompts=1, keeps_free=True))
    assert start.wait == 0
    assert start.prompt_rows > 0
