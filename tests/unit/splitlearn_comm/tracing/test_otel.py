"""Spans as a collector receives them."""

import socket
import time
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from splitlearn_comm import RequestContext
from splitlearn_comm.tracing.otel import OtelTracer, exporting
from support.span_collector import span_collector

CONTEXT = RequestContext("req-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


def test_a_span_hands_on_its_own_place_in_the_caller_s_trace() -> None:
    with span_collector() as collector:
        tracer = OtelTracer("test", exporting(collector.url))
        span = tracer.start("work", CONTEXT)
        context = span.context
        span.end()
        tracer.close()
    (seen,) = collector.spans
    assert context == replace(CONTEXT, traceparent=f"00-{seen.trace}-{seen.span}-01")
    assert seen.trace in CONTEXT.traceparent
    assert seen.parent in CONTEXT.traceparent


def test_a_caller_that_does_not_sample_is_not_traced() -> None:
    unsampled = replace(CONTEXT, traceparent=CONTEXT.traceparent[:-1] + "0")
    with span_collector() as collector:
        tracer = OtelTracer("test", exporting(collector.url))
        span = tracer.start("work", unsampled)
        span.end()
        tracer.close()
    assert collector.spans == []
    assert span.context.traceparent.endswith("-00")


def test_a_span_that_began_earlier_keeps_its_times() -> None:
    with span_collector() as collector:
        tracer = OtelTracer("test", exporting(collector.url))
        now = time.perf_counter()
        span = tracer.start("work", CONTEXT, now - 5.0)
        span.child("part", now - 4.0, now - 2.0)
        span.end()
        tracer.close()
    part, work = collector.spans
    assert (part.ended - part.began) / 1e9 == pytest.approx(2.0, abs=0.1)
    assert (part.began - work.began) / 1e9 == pytest.approx(1.0, abs=0.1)


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracer = OtelTracer("test", exporting(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"))
        tracer.start("work", CONTEXT).end()
        began = time.monotonic()
        tracer.close()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("error", [None, "trunk_failed"])
def test_a_span_has_its_service_s_name_its_attributes_and_the_error_that_ended_it(error: str | None) -> None:
    exporter = InMemorySpanExporter()
    tracer = OtelTracer("test", SimpleSpanProcessor(exporter))
    span = tracer.start("work", RequestContext())
    span.set({"a": 1, "b": ["x"]})
    span.end(error)
    (seen,) = exporter.get_finished_spans()
    assert seen.resource.attributes["service.name"] == "test"
    assert dict(seen.attributes or {}) == {"a": 1, "b": ("x",), **({"error.type": error} if error else {})}
    assert (seen.status.is_ok, seen.parent) == (error is None, None)


def test_a_trace_without_a_caller_is_handed_on_with_the_request_s_id() -> None:
    tracer = OtelTracer("test", SimpleSpanProcessor(InMemorySpanExporter()))
    context = tracer.start("work", RequestContext("req-1")).context
    assert context.request_id == "req-1"
    assert RequestContext.read(context.metadata) == context != RequestContext("req-1")
