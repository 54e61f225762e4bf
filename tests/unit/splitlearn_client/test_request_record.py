"""What is told of a generation at each of its ends. Its spans are in tests/integration/test_traces.py."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from splitlearn_client.errors import BadRequest, RequestError, TrunkFailed
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.report import Report
from splitlearn_client.request_info import RequestInfo
from splitlearn_client.request_record import generation_attributes, recorded
from splitlearn_comm import RequestContext
from splitlearn_comm.tracing import NoTracer


def ended_by(
    error: BaseException | None, finish_reason: str | None = None, tenant: str = ""
) -> tuple[dict[str, Any], ClientMetrics]:
    """The log line and the metrics of a generation that ended so."""
    metrics, info = ClientMetrics("tiny"), RequestInfo(RequestContext("req-1"), tenant=tenant)
    expected = () if error is None else type(error)
    with capture_logs() as lines, suppress(expected), recorded(metrics, NoTracer(), info, [Report()], {}) as record:
        record.finish_reason = finish_reason
        if error is not None:
            raise error
    (line,) = lines
    return line, metrics


def value(metrics: ClientMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"splitlearn_client_{name}", labels)


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_a_whole_answer_ends_with_its_finish_reason(finish_reason: str) -> None:
    line, metrics = ended_by(None, finish_reason)
    assert (line["finish_reason"], line["log_level"], line["request_id"]) == (finish_reason, "info", "req-1")
    assert "code" not in line
    assert value(metrics, "request_success_total", model_name="tiny", finished_reason=finish_reason) == 1


@pytest.mark.parametrize("error", [GeneratorExit(), asyncio.CancelledError()])
def test_a_caller_that_hangs_up_aborts_unless_the_answer_was_whole(error: BaseException) -> None:
    line, metrics = ended_by(error)
    assert line["finish_reason"] == "abort"
    assert value(metrics, "request_success_total", model_name="tiny", finished_reason="abort") == 1
    assert ended_by(error, "stop")[0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (TrunkFailed("it broke"), "trunk_failed", {"error": "it broke", "log_level": "warning"}),
        # may quote the request
        (BadRequest("the word secret"), "invalid_value", {"log_level": "info"}),
        # the handler of unforeseen errors logs it
        (KeyError("secret"), "internal_error", {"log_level": "info"}),
    ],
)
def test_an_error_has_its_code_and_a_server_s_its_text(
    error: RequestError | KeyError, code: str, told: dict[str, str]
) -> None:
    # an error after the last token is one all the same
    for finish_reason in (None, "stop"):
        line, metrics = ended_by(error, finish_reason)
        assert (line["finish_reason"], line["code"]) == ("error", code)
        assert {name: line[name] for name in ("error", "log_level") if name in line} == told
        assert value(metrics, "request_failures_total", code=code) == 1


def test_the_line_names_the_tenant_if_there_is_one() -> None:
    assert ended_by(None, "stop", "acme")[0]["tenant"] == "acme"
    assert "tenant" not in ended_by(None, "stop")[0]


def test_a_request_counts_as_running_until_it_ends() -> None:
    metrics = ClientMetrics("tiny")
    with recorded(metrics, NoTracer(), RequestInfo(), [Report()], {}) as record:
        assert value(metrics, "num_requests_running", model_name="tiny") == 1
        record.finish_reason = "stop"
    assert value(metrics, "num_requests_running", model_name="tiny") == 0


def test_the_session_gets_the_context_of_its_request() -> None:
    info, report = RequestInfo(RequestContext("req-1")), Report()
    with recorded(ClientMetrics("tiny"), NoTracer(), info, [report], {}):
        assert report.context == RequestContext("req-1")


def test_a_limit_that_the_request_leaves_out_is_no_attribute() -> None:
    assert "gen_ai.request.max_tokens" not in generation_attributes("chat", "tiny", GenerationRequest((1,), None))
    assert generation_attributes("chat", "tiny", GenerationRequest((1,), 5))["gen_ai.request.max_tokens"] == 5
