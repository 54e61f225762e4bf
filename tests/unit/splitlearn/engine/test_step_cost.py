import pytest

from splitlearn.engine.step_cost import StepCostModel


def learned(step_seconds: float, row_seconds: float, **options: float) -> StepCostModel:
    """A cost that has seen enough steps of a device on which a row of a prompt always adds the same."""
    cost = StepCostModel(**options)
    for _ in range(40):
        cost.learn(4, 0, step_seconds)
        cost.learn(4, 100, step_seconds + 100 * row_seconds)
    return cost


def test_prompts_have_whole_steps_when_no_session_decodes() -> None:
    assert StepCostModel(max_num_batched_tokens=512).prefill_budget(1, 0) == 512
    assert learned(0.01, 1.0, max_num_batched_tokens=512).prefill_budget(1, 0) == 512


def test_before_anything_was_measured_a_step_takes_a_few_rows() -> None:
    assert StepCostModel(max_num_batched_tokens=512).prefill_budget(1, 4) == 64
    only_half = StepCostModel(max_num_batched_tokens=512)
    only_half.learn(4, 0, 0.01)
    assert only_half.prefill_budget(1, 4) == 64


@pytest.mark.parametrize("max_decode_slowdown", [1.5, 2.0, 3.0])
def test_a_step_with_prompts_is_slower_by_the_allowed_factor(max_decode_slowdown: float) -> None:
    cost = learned(0.020, 0.0002, max_num_batched_tokens=512, max_decode_slowdown=max_decode_slowdown)
    rows = cost.prefill_budget(1, 4)
    assert max_decode_slowdown * 0.020 - 16 * 0.0002 < 0.020 + rows * 0.0002 <= max_decode_slowdown * 0.020


def test_a_step_always_takes_some_rows_so_that_prompts_finish() -> None:
    assert learned(0.001, 1.0, max_num_batched_tokens=512).prefill_budget(1, 4) == 16


@pytest.mark.parametrize("n_decoding", [0, 4])
@pytest.mark.parametrize("row_seconds", [1e-7, 1.0])
def test_no_step_has_more_rows_of_prompts_than_the_limit(row_seconds: float, n_decoding: int) -> None:
    for most in (1, 5, 300):
        assert StepCostModel(max_num_batched_tokens=most).prefill_budget(1, n_decoding) <= most
        assert learned(0.01, row_seconds, max_num_batched_tokens=most).prefill_budget(1, n_decoding) <= most


def test_the_estimate_follows_a_device_that_becomes_slower() -> None:
    cost = learned(0.010, 0.0001, max_num_batched_tokens=512)
    before = cost.prefill_budget(1, 4)
    for _ in range(20):
        cost.learn(4, 50, 0.010 + 50 * 0.0004)
    assert abs(cost.prefill_budget(1, 4) - before / 4) <= 16


def test_one_odd_step_changes_the_estimate_only_a_little() -> None:
    cost = learned(0.010, 0.0001, max_num_batched_tokens=512)
    before = cost.prefill_budget(1, 4)
    cost.learn(4, 50, 0.010 + 50 * 0.001)  # ten times as long a row as ever
    assert before / 5 < cost.prefill_budget(1, 4) < before


def test_a_step_that_the_system_interrupted_halves_the_rows_at_most() -> None:
    cost = learned(0.010, 0.0001, max_num_batched_tokens=512)
    before = cost.prefill_budget(1, 4)
    cost.learn(4, 50, 1.0)
    assert cost.prefill_budget(1, 4) >= before / 2 - 16


def test_the_few_rows_at_the_end_of_a_prompt_do_not_change_the_estimate() -> None:
    cost = learned(0.010, 0.0001, max_num_batched_tokens=512)
    before = cost.prefill_budget(1, 4)
    cost.learn(4, 3, 0.015)
    assert cost.prefill_budget(1, 4) == before


def test_a_step_with_prompts_that_was_faster_than_one_without_counts_as_cheap_and_not_as_free() -> None:
    cost = StepCostModel(max_num_batched_tokens=512)
    cost.learn(4, 0, 0.020)
    cost.learn(4, 100, 0.018)
    assert cost.prefill_budget(1, 4) == 512


def test_time_is_shared_equally_per_session_where_more_prefill_than_decode() -> None:
    cost = learned(0.020, 0.0002, max_num_batched_tokens=5120, max_decode_slowdown=2.0)
    assert cost.prefill_budget(15, 1) == pytest.approx(15 * 100, abs=16)
    assert cost.prefill_budget(1, 15) == cost.prefill_budget(1, 1)


def test_prompts_alone_in_a_step_take_half_the_time_until_the_first_decode_is_due() -> None:
    cost = learned(0.020, 0.0002, max_num_batched_tokens=512, max_decode_slowdown=3.0)
    assert cost.prefill_budget(1, 4, 0.020) == 48
    assert cost.prefill_budget(1, 4, 10.0) == 512
    assert cost.prefill_budget(1, 4, 0.005) == 0


def test_the_budget_is_a_multiple_of_16_rows() -> None:
    cost = learned(0.020, 0.0003, max_num_batched_tokens=512, max_decode_slowdown=2.0)
    assert cost.prefill_budget(1, 4) == 64


def test_a_step_is_late_after_several_times_what_such_steps_took_and_not_within_seconds() -> None:
    model = StepCostModel()
    unknown = model.deadline_seconds(0)
    model.learn(n_decoding=1, n_prefill_rows=0, seconds=0.01)
    assert model.deadline_seconds(0) < unknown
    # of prompts nothing is known yet
    assert model.deadline_seconds(64) == unknown
    model.learn(n_decoding=0, n_prefill_rows=64, seconds=64.0)
    assert 4 * 512 < model.deadline_seconds(512) < 16 * 512
    assert model.deadline_seconds(0) == model.deadline_seconds(1)
