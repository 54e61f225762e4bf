from random import Random

import pytest

from splitlearn_cli.load.plan import (
    WORDS,
    Load,
    Span,
    Workload,
    arrivals,
    make_prompt,
    parse_concurrency,
    parse_rates,
    parse_span,
    plan_levels,
)

TWO = (Load("concurrency", 1), Load("concurrency", 4))
WORK = Workload(requests=20, warmup=3, prompt_tokens=Span(5, 9), output_tokens=Span(2, 4), seed=7)


@pytest.mark.parametrize(("text", "expected"), [("7", Span(7, 7)), ("32-1500", Span(32, 1500)), ("3-3", Span(3, 3))])
def test_a_span_is_a_number_or_a_range(text: str, expected: Span) -> None:
    assert parse_span(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-3", "9-5", "0-5", "5-", "1-2-3", "many", "1.5"])
def test_any_other_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_span(text)


def test_levels_are_read_in_the_order_given() -> None:
    assert parse_concurrency("4,1") == (Load("concurrency", 4), Load("concurrency", 1))
    assert parse_rates("0.5,2") == (Load("rate", 0.5), Load("rate", 2.0))


@pytest.mark.parametrize("text", ["", "0", "1,,2", "1.5", "x", "-1"])
def test_a_concurrency_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_concurrency(text)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "x", "-1", "inf", "nan"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_rates(text)


def test_equal_seeds_plan_the_same_and_others_do_not() -> None:
    other = Workload(20, 3, Span(5, 9), Span(2, 4), seed=8)

    assert plan_levels(TWO, WORK) == plan_levels(TWO, WORK)
    assert plan_levels(TWO, WORK) != plan_levels(TWO, other)


def test_levels_share_lengths_but_no_prompt() -> None:
    first, second = plan_levels(TWO, WORK)

    def lengths(level: object) -> list[tuple[int, int]]:
        return [(len(str(request.prompt).split()), request.max_tokens) for request in level.requests]  # type: ignore[attr-defined]

    assert lengths(first) == lengths(second)
    prompts = [request.prompt for level in (first, second) for request in (*level.warmup, *level.requests)]
    assert len(prompts) == 2 * (3 + 20)
    assert len(set(prompts)) == len(prompts)


def test_lengths_fill_their_spans_to_both_ends() -> None:
    (level,) = plan_levels(TWO[:1], Workload(200, 0, Span(5, 9), Span(2, 4)))

    assert {len(str(request.prompt).split()) for request in level.requests} == {5, 6, 7, 8, 9}
    assert {request.max_tokens for request in level.requests} == {2, 3, 4}


def test_text_is_made_of_common_words_and_ids_exist_in_small_vocabularies() -> None:
    text, ids = make_prompt("text", 50, Random(1)), make_prompt("ids", 50, Random(1))

    assert isinstance(text, str)
    assert set(text.split()) <= set(WORDS)
    assert len(ids) == 50
    assert all(isinstance(token, int) and 0 <= token < 256 for token in ids)


def test_a_closed_loop_has_no_arrival_times_and_an_open_one_has_them_but_for_its_warmup() -> None:
    (closed,) = plan_levels(TWO[:1], WORK)
    (opened,) = plan_levels([Load("rate", 2.0)], WORK)

    assert {request.due for request in closed.requests} == {None}
    due = [request.due for request in opened.requests if request.due is not None]
    assert len(due) == 20
    assert due == sorted(due)
    assert {request.due for request in opened.warmup} == {None}


def test_arrivals_come_at_their_rate_with_gaps_as_spread_as_a_poisson_process_has_them() -> None:
    times = arrivals(4.0, 20_000, Random(3))

    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.25, rel=0.03)
    assert deviation == pytest.approx(0.25, rel=0.03)
    assert min(gaps) > 0
