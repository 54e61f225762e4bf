import json

from splitlearn_cli.load.plan import Load
from splitlearn_cli.load.record import MeasuredLevel, Record, RequestFailure
from splitlearn_cli.load.report import as_json, remarks, tables

BUSY = RequestFailure("HTTP 429 with Retry-After", "too many\nrequests", "7")


def answered(number: int) -> Record:
    return Record(number, 0.5, None, 2.0, ttft=0.04, itl=(0.98, 0.98), max_tokens=3, output_tokens=3, prompt_tokens=10)


def refused(number: int) -> Record:
    return Record(number, 0.5, None, 0.1, max_tokens=3, failure=BUSY)


def level(*records: Record, concurrency: int = 4, planned: int | None = None) -> MeasuredLevel:
    return MeasuredLevel(Load("concurrency", concurrency), planned or len(records), list(records))


def test_the_tables_have_a_row_for_each_level_and_one_for_each_of_its_latencies() -> None:
    shown = tables([level(answered(0), answered(1), concurrency=2), level(answered(0), refused(1))])

    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        "CONCURRENCY REQUESTS FAILED SECONDS REQUESTS/S OUTPUT TOKENS/S ALL TOKENS/S TOKENS IN OUT",
        "2 2 0 2.0 1.00 3.0 13.0 10 3",
        "4 2 1 2.0 0.50 1.5 6.5 10 3",
        "",
        "CONCURRENCY MILLISECONDS MEAN P50 P90 P99",
        "2 first token 40.0 40.0 40.0 40.0",
        "between chunks 980 980 980 980",
        "per token 980 980 980 980",
        "whole answer 2000 2000 2000 2000",
        "4 first token 40.0 40.0 40.0 40.0",
        "between chunks 980 980 980 980",
        "per token 980 980 980 980",
        "whole answer 2000 2000 2000 2000",
    ]


def test_what_was_not_measured_is_a_dash_and_not_a_zero() -> None:
    shown = tables([level(refused(0))]).splitlines()

    assert shown[1].split()[-2:] == ["-", "-"]
    assert shown[4].split() == ["4", "first", "token", "-", "-", "-", "-"]


def test_each_kind_of_failure_is_one_line_with_its_count_and_first_message() -> None:
    (line,) = remarks([level(refused(0), answered(1), refused(2))])

    assert line == "concurrency 4: 2 x HTTP 429 with Retry-After (Retry-After: 7): too many requests"


def test_a_long_message_is_cut() -> None:
    failure = RequestFailure("HTTP 500", "x" * 1000)

    (line,) = remarks([level(Record(0, 0.0, None, 1.0, failure=failure))])

    assert len(line) < 250
    assert line.endswith("x...")


def test_numbers_that_mean_less_than_they_seem_come_with_a_remark() -> None:
    late = MeasuredLevel(Load("rate", 2.5), 3, [Record(0, 1.2, 1.0, 1.0), Record(1, 2.0, 2.0, 1.0, ttft=0.5)])

    lines = remarks([late])

    assert lines == [
        "rate 2.5: 1 answers had no text, and no time to first token",
        "rate 2.5: requests were sent up to 200 ms late; this machine cannot keep up with the rate",
        "rate 2.5: interrupted, 2 of 3 requests had ended",
    ]


def test_nothing_is_remarked_where_nothing_is_wrong() -> None:
    assert remarks([level(answered(0))]) == []


def test_the_json_has_every_request_and_the_endpoint() -> None:
    body = json.loads(json.dumps(as_json({"model": "tiny"}, [level(answered(0), refused(1), planned=5)])))

    assert body["model"] == "tiny"
    (found,) = body["levels"]
    assert found["load"] == {"kind": "concurrency", "value": 4}
    assert found["interrupted"] is True
    assert found["summary"]["failures"] == {BUSY.kind: 1}
    assert found["summary"]["ttft"] == {"mean": 0.04, "p50": 0.04, "p90": 0.04, "p99": 0.04}
    whole, failed = found["requests"]
    assert (whole["itl"], whole["tpot"], whole["failure"]) == ([0.98, 0.98], 0.98, None)
    assert failed["failure"] == {"kind": BUSY.kind, "message": BUSY.message, "retry_after": "7"}
