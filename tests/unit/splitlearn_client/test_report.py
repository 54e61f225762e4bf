import pytest

from splitlearn_client.report import Phases, Report, together


def report(**fields: float) -> Report:
    return Report(began=10.0, **fields)  # type: ignore[arg-type]


def test_several_answers_of_one_token_have_no_rate() -> None:
    each = Report(completion_tokens=1, first_token=1.0, last_token=1.0)
    assert together([each, each]).tokens_per_second == 0


def test_before_the_first_token_there_are_no_phases() -> None:
    assert report().phases is None
    assert report(queue_seconds=1.0).phases is None


def test_the_phases_add_up_from_the_start_to_the_last_token() -> None:
    phases = report(first_token=13.0, last_token=18.0, queue_seconds=1.0).phases
    assert phases == Phases(queue=1.0, prefill=2.0, decode=5.0)
    assert (phases.time_to_first_token, phases.e2e) == (3.0, 8.0)


def test_a_queue_is_never_longer_than_the_wait_for_the_first_token() -> None:
    # each part reports its queue by its own clock
    assert report(first_token=13.0, last_token=13.0, queue_seconds=4.0).phases == Phases(3.0, 0.0, 0.0)


def test_the_rate_is_that_of_the_tokens_after_the_first() -> None:
    assert report(first_token=11.0, last_token=13.0, completion_tokens=5).tokens_per_second == 2.0
    assert report(first_token=11.0, last_token=11.0, completion_tokens=1).tokens_per_second == 0.0


def test_several_generations_together_last_from_the_first_one_s_start_to_the_last_one_s_end() -> None:
    first = report(first_token=11.0, last_token=12.0, completion_tokens=2, wire_bytes_sent=5)
    second = Report(began=12.0, first_token=13.0, last_token=15.0, completion_tokens=3, wire_bytes_sent=7)
    first.timings["wire"], second.timings["wire"] = 0.25, 0.5
    whole = together([first, second])
    assert (whole.began, whole.first_token, whole.last_token) == (10.0, 11.0, 15.0)
    assert (whole.completion_tokens, whole.wire_bytes_sent) == (5, 12)
    assert whole.timings["wire"] == pytest.approx(0.75)
