"""When traces are made, and what a service without them imports. The spans are in tests/integration/test_traces.py."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from structlog.testing import capture_logs

from splitlearn_comm import RequestContext
from splitlearn_comm.tracing import NoTracer, TracingUnavailable, tracer_to
from support.span_collector import span_collector

CONTEXT = RequestContext("req-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_traced_unless_somebody_takes_it() -> None:
    tracer = tracer_to(None, "test")
    assert isinstance(tracer, NoTracer)
    span = tracer.start("work", CONTEXT)
    span.set({"a": 1})
    span.child("part", 0.0, 1.0)
    span.end("broken")
    assert span.context == CONTEXT
    tracer.close()


def test_who_does_not_trace_does_not_import_opentelemetry() -> None:
    code = (
        "import sys\n"
        "from splitlearn_comm.tracing import tracer_to\n"
        "tracer_to(None, 'test')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_opentelemetry_s_variables_name_the_endpoint(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with span_collector() as collector:
        # the general variable is a base, to which the exporter adds the path
        url = collector.url if "TRACES" in name else collector.url.removesuffix("/v1/traces")
        monkeypatch.setenv(name, url)
        tracer = tracer_to(None, "test")
        tracer.start("work", RequestContext()).end()
        tracer.close()
    assert [(span.service, span.name) for span in collector.spans] == [("test", "work")]


def test_opentelemetry_s_variables_turn_it_off_and_name_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with span_collector() as collector:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        assert isinstance(tracer_to(collector.url, "test"), NoTracer)
        monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
        tracer = tracer_to(collector.url, "test")
        tracer.start("work", RequestContext()).end()
        tracer.close()
    assert [span.service for span in collector.spans] == ["ours"]


def test_without_the_extra_a_flag_is_an_error_and_a_variable_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_spec("opentelemetry") is not None
    for name in [name for name in sys.modules if name.startswith("splitlearn_comm.tracing.otel")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(TracingUnavailable, match=r'pip install "splitlearn\[otel\]"'):
        tracer_to("http://127.0.0.1:1/v1/traces", "test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with capture_logs() as lines:
        assert isinstance(tracer_to(None, "test"), NoTracer)
    assert [(line["event"], line["log_level"]) for line in lines] == [("no traces", "warning")]
