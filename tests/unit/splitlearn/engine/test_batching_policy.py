from dataclasses import replace

import pytest

from splitlearn.engine.batching_policy import BatchingPolicy, EngineState, StepDecision
from splitlearn.engine.step_cost import StepCostModel

STEP, ROW, AWAY = 0.1, 0.001, 0.05
NO_SESSIONS = EngineState(now=0.0, n_decoding=0, n_prefilling=0)


def policy(*, is_batched: bool = True, n_outstanding: int = 0) -> BatchingPolicy:
    """Steps take 100 ms and 1 ms for a row of a prompt; outstanding sessions usually answer after 50 ms."""
    cost = StepCostModel(max_num_batched_tokens=512)
    for _ in range(40):
        cost.learn(4, 0, STEP)
        cost.learn(4, 100, STEP + 100 * ROW)
    policy = BatchingPolicy(cost, is_batched)
    for session in range(n_outstanding):
        policy.arrivals.on_sent(session, -2 * AWAY)
        policy.arrivals.on_received(session, -AWAY)
        policy.arrivals.on_sent(session, 0.0)
    return policy


def test_a_prompt_alone_begins_at_once_and_with_whole_steps() -> None:
    assert policy().decide(replace(NO_SESSIONS, n_prefilling=1)) == StepDecision(0.0, 512)


def test_a_session_that_decodes_alone_begins_at_once() -> None:
    assert policy().decide(replace(NO_SESSIONS, n_decoding=1)).wait == 0


def test_the_first_session_waits_for_the_others_but_not_longer_than_a_step_takes() -> None:
    state = replace(NO_SESSIONS, now=0.9 * AWAY, n_decoding=1, waiting_since=0.9 * AWAY)
    assert 0 < policy(n_outstanding=3).decide(state).wait <= STEP
    assert policy(n_outstanding=3).decide(replace(state, now=1.9 * AWAY, waiting_since=1.9 * AWAY - STEP)).wait == 0


def test_a_step_with_a_prompt_is_longer_and_so_may_be_the_wait_for_it() -> None:
    state = replace(NO_SESSIONS, now=1.5 * AWAY, n_decoding=1, waiting_since=1.5 * AWAY - STEP)
    assert policy(n_outstanding=3).decide(state).wait == 0
    assert policy(n_outstanding=3).decide(replace(state, n_prefilling=1)).wait > 0


def test_where_sessions_do_not_share_a_step_none_waits_for_another() -> None:
    state = replace(NO_SESSIONS, now=0.9 * AWAY, n_decoding=1, waiting_since=0.9 * AWAY)
    assert policy(is_batched=False, n_outstanding=3).decide(state).wait == 0


def test_between_tokens_a_prompt_gets_as_many_rows_as_the_time_allows() -> None:
    between = replace(NO_SESSIONS, n_prefilling=1, next_due=0.1)
    assert policy(n_outstanding=3).decide(between) == StepDecision(0.0, 48)


def test_a_prompt_waits_for_sessions_that_it_would_delay() -> None:
    between = replace(NO_SESSIONS, n_prefilling=1, next_due=0.02)
    assert policy(n_outstanding=3).decide(between) == StepDecision(0.02, 0)
    assert policy(is_batched=False, n_outstanding=3).decide(between) == StepDecision(0.02, 0)


def test_a_prompt_waits_for_sessions_that_another_engine_on_the_thread_expects() -> None:
    between = replace(NO_SESSIONS, n_prefilling=1, next_due=0.001)
    assert policy(n_outstanding=1).decide(between).wait == pytest.approx(0.001)


def test_on_shared_cores_prompts_run_beside_tokens_only() -> None:
    between = replace(NO_SESSIONS, n_prefilling=1, next_due=0.5, shares_cores=True)
    assert policy(n_outstanding=3).decide(between) == StepDecision(0.5, 0)
    assert policy(n_outstanding=3).decide(replace(between, n_decoding=1)).prefill_budget > 0


def test_a_prompt_does_not_wait_for_a_session_that_is_not_expected_soon() -> None:
    between = replace(NO_SESSIONS, n_prefilling=1, next_due=20.0, shares_cores=True)
    assert policy(n_outstanding=3).decide(between) == StepDecision(0.0, 512)


def test_prompts_go_on_when_the_expected_sessions_do_not_come() -> None:
    decision = policy(n_outstanding=3).decide(replace(NO_SESSIONS, now=2.1 * AWAY, n_prefilling=1, shares_cores=True))
    assert decision.wait == 0
    assert decision.prefill_budget > 0


def test_a_prompt_is_sent_in_chunks_that_fit_the_step_that_will_take_it() -> None:
    beside = replace(NO_SESSIONS, n_decoding=1, n_prefilling=1)
    between = replace(NO_SESSIONS, n_prefilling=1, next_due=0.02, shares_cores=True)
    assert policy(n_outstanding=4).prefill_budget(between) == 0
    assert policy(n_outstanding=4).prefill_chunk_size(between) == policy(n_outstanding=3).prefill_budget(beside) > 16
    assert policy().prefill_chunk_size(replace(NO_SESSIONS, n_prefilling=1)) == 512
    # a step between tokens takes what there is time for
    alone = replace(NO_SESSIONS, n_prefilling=1, next_due=0.1)
    assert policy(n_outstanding=4).prefill_chunk_size(alone) == policy(n_outstanding=4).prefill_budget(alone) == 48
