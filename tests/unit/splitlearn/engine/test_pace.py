import pytest

from splitlearn.engine.pace import Pace


def learned(step_seconds: float, row_seconds: float, **options: float) -> Pace:
    """A pace that has seen enough steps of a device on which a row of a prompt always adds the same."""
    pace = Pace(**options)
    for _ in range(40):
        pace.learn(4, 0, step_seconds)
        pace.learn(4, 100, step_seconds + 100 * row_seconds)
    return pace


def test_prompts_have_whole_steps_when_nobody_decodes() -> None:
    assert Pace(most_rows=512).prompt_rows(1, 0) == 512
    assert learned(0.01, 1.0, most_rows=512).prompt_rows(1, 0) == 512


def test_before_anything_was_learned_a_few_rows_ride_along() -> None:
    assert Pace(most_rows=512).prompt_rows(1, 4) == 64
    only_half = Pace(most_rows=512)
    only_half.learn(4, 0, 0.01)
    assert only_half.prompt_rows(1, 4) == 64


@pytest.mark.parametrize("slowdown", [1.5, 2.0, 3.0])
def test_a_step_with_prompts_takes_as_many_times_as_long_as_it_may(slowdown: float) -> None:
    pace = learned(0.020, 0.0002, most_rows=512, slowdown=slowdown)
    rows = pace.prompt_rows(1, 4)
    assert slowdown * 0.020 - 16 * 0.0002 < 0.020 + rows * 0.0002 <= slowdown * 0.020


def test_some_rows_always_ride_along_so_that_prompts_come_to_an_end() -> None:
    assert learned(0.001, 1.0, most_rows=512).prompt_rows(1, 4) == 16


@pytest.mark.parametrize("n_decoding", [0, 4])
@pytest.mark.parametrize("row_seconds", [1e-7, 1.0])
def test_no_step_has_more_rows_of_prompts_than_the_limit(row_seconds: float, n_decoding: int) -> None:
    for most_rows in (1, 5, 300):
        assert Pace(most_rows=most_rows).prompt_rows(1, n_decoding) <= most_rows
        assert learned(0.01, row_seconds, most_rows=most_rows).prompt_rows(1, n_decoding) <= most_rows


def test_it_follows_a_device_that_becomes_slower() -> None:
    pace = learned(0.010, 0.0001, most_rows=512)
    before = pace.prompt_rows(1, 4)
    for _ in range(20):
        pace.learn(4, 50, 0.010 + 50 * 0.0004)
    assert abs(pace.prompt_rows(1, 4) - before / 4) <= 16


def test_one_odd_step_does_not_decide() -> None:
    pace = learned(0.010, 0.0001, most_rows=512)
    before = pace.prompt_rows(1, 4)
    pace.learn(4, 50, 0.010 + 50 * 0.001)  # ten times as long a row as ever
    assert before / 5 < pace.prompt_rows(1, 4) < before


def test_the_end_of_a_prompt_says_too_little_about_what_a_row_takes() -> None:
    pace = learned(0.010, 0.0001, most_rows=512)
    before = pace.prompt_rows(1, 4)
    pace.learn(4, 3, 0.015)
    assert pace.prompt_rows(1, 4) == before


def test_a_step_with_prompts_that_was_faster_than_one_without_counts_as_cheap_and_not_as_free() -> None:
    pace = Pace(most_rows=512)
    pace.learn(4, 0, 0.020)
    pace.learn(4, 100, 0.018)
    assert pace.prompt_rows(1, 4) == 512


def test_who_waits_is_told_at_least_a_second_and_more_if_many_wait() -> None:
    assert Pace().seconds_for(0) == 1.0
    pace = learned(0.05, 0.001)
    assert pace.seconds_for(1) == 1.0
    assert pace.seconds_for(100) > pace.seconds_for(50) > 1.0


def test_time_is_shared_by_heads_where_more_wait_for_their_first_token_than_for_their_next() -> None:
    pace = learned(0.020, 0.0002, most_rows=5120, slowdown=2.0)
    assert pace.prompt_rows(15, 1) == pytest.approx(15 * 100, abs=16)
    assert pace.prompt_rows(1, 15) == pace.prompt_rows(1, 1)


def test_prompts_alone_in_a_step_take_half_the_time_until_the_first_who_decodes_is_due() -> None:
    pace = learned(0.020, 0.0002, most_rows=512, slowdown=3.0)
    assert pace.prompt_rows(1, 4, 0.020) == 48
    assert pace.prompt_rows(1, 4, 10.0) == 512
    assert pace.prompt_rows(1, 4, 0.005) == 0


def test_rows_come_in_blocks_of_16() -> None:
    pace = learned(0.020, 0.0003, most_rows=512, slowdown=2.0)
    assert pace.prompt_rows(1, 4) == 64
