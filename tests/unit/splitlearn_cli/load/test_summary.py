import pytest

from splitlearn_cli.load.record import Record, RequestFailure
from splitlearn_cli.load.summary import Distribution, distribution, summarize

BUSY = RequestFailure("HTTP 429 with Retry-After", "too many", "7")
GONE = RequestFailure("no connection", "refused")


def record(number: int, sent: float, e2e: float, **others: object) -> Record:
    return Record(**{"number": number, "sent": sent, "due": None, "e2e": e2e, **others})  # type: ignore[arg-type]


def test_percentiles_are_interpolated_between_values() -> None:
    spread = distribution([float(value) for value in range(1, 102)])

    assert spread == Distribution(mean=51.0, p50=51.0, p90=91.0, p99=100.0)
    assert distribution([1.0, 2.0]) == Distribution(1.5, 1.5, pytest.approx(1.9), pytest.approx(1.99))


def test_nothing_measured_has_no_distribution() -> None:
    assert distribution([None, None]) is None
    assert distribution([None, 2.0]) == Distribution(2.0, 2.0, 2.0, 2.0)


def test_a_level_is_summed_up_from_its_whole_answers() -> None:
    summary = summarize(
        [
            record(0, 1.0, 2.0, ttft=0.5, itl=(0.5, 1.0), output_tokens=4, prompt_tokens=10),
            record(1, 1.5, 3.5, ttft=1.5, itl=(2.0,), output_tokens=6, prompt_tokens=20),
            record(2, 2.0, 0.1, ttft=0.1, output_tokens=100, prompt_tokens=100, failure=BUSY),
        ]
    )

    # from the first sent at 1 to the last end at 5
    assert summary.duration == pytest.approx(4.0)
    assert (summary.requests, summary.answered, summary.failures) == (3, 2, {BUSY.kind: 1})
    assert summary.requests_per_second == pytest.approx(2 / 4)
    assert summary.output_tokens_per_second == pytest.approx(10 / 4)
    assert summary.total_tokens_per_second == pytest.approx(40 / 4)
    assert summary.ttft is not None
    assert summary.ttft.mean == pytest.approx(1.0)
    assert summary.itl is not None
    assert summary.itl.p50 == pytest.approx(1.0)
    assert summary.tpot is not None
    assert summary.tpot.mean == pytest.approx((1.5 / 3 + 2.0 / 5) / 2)
    assert summary.e2e is not None
    assert summary.e2e.mean == pytest.approx(2.75)


def test_failures_are_counted_by_kind_most_frequent_first() -> None:
    failures = [GONE, BUSY, BUSY]

    summary = summarize([record(i, 0.0, 1.0, failure=failure) for i, failure in enumerate(failures)])

    assert list(summary.failures.items()) == [(BUSY.kind, 2), (GONE.kind, 1)]
    assert summary.answered == 0
    assert summary.ttft is summary.itl is summary.tpot is summary.e2e is None


def test_prompt_tokens_that_one_answer_lacks_leave_the_total_unknown() -> None:
    summary = summarize([record(0, 0.0, 1.0, output_tokens=1, prompt_tokens=3), record(1, 0.0, 1.0, output_tokens=1)])

    assert summary.total_tokens_per_second is None
    assert summary.output_tokens_per_second == pytest.approx(2.0)


def test_an_answer_without_text_is_counted_and_has_no_first_token() -> None:
    summary = summarize([record(0, 0.0, 1.0, output_tokens=1), record(1, 0.0, 1.0, ttft=0.25, output_tokens=1)])

    assert summary.without_text == 1
    assert summary.ttft == Distribution(0.25, 0.25, 0.25, 0.25)
    # a single token has no time for each after the first
    assert summary.tpot is None


def test_the_generators_own_lateness_is_the_greatest() -> None:
    late = [record(0, 1.25, 1.0, due=1.0), record(1, 2.0, 1.0, due=2.0)]

    assert summarize(late).greatest_lag == pytest.approx(0.25)
    assert summarize([record(0, 1.0, 1.0)]).greatest_lag is None
