"""Spans as OpenTelemetry has them. The only module that imports it, and only where traces are exported.

Parents are passed from hand to hand, and are not OpenTelemetry's current span: that would not survive the async
generators that answers come from.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from splitlearn_comm.request_context import RequestContext
from splitlearn_comm.tracing.interface import Attributes, Span

_PROPAGATOR: Final = TraceContextTextMapPropagator()
# How long an export may take, retries included: the end of a process waits for the last one.
_ANSWER_SECONDS: Final = 2.0


def exporting(endpoint: str | None) -> SpanProcessor:
    """Sends spans in batches, from a thread of its own. None: to where OpenTelemetry's variables say."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_ANSWER_SECONDS))


class OtelTracer:
    """Its sampler and resource are those of OpenTelemetry's variables, such as OTEL_TRACES_SAMPLER.

    Args:
        service_name: unless OTEL_SERVICE_NAME has another.
        processor: gets each span that has ended.
    """

    def __init__(self, service_name: str, processor: SpanProcessor) -> None:
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": service_name}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("splitlearn")

    def start(self, name: str, context: RequestContext, began: float | None = None) -> Span:
        parent = _PROPAGATOR.extract({"traceparent": context.traceparent, "tracestate": context.tracestate})
        at = None if began is None else _since_epoch(began)
        span = self._tracer.start_span(name, parent, trace.SpanKind.SERVER, start_time=at)
        return _OtelSpan(self._tracer, span, context)

    def close(self) -> None:
        # exports what is left
        self._provider.shutdown()


class _OtelSpan:
    def __init__(self, tracer: trace.Tracer, span: trace.Span, caller: RequestContext) -> None:
        self._tracer = tracer
        self._span = span
        self._as_parent = trace.set_span_in_context(span)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._as_parent)
        self._context = replace(caller, **carrier)

    @property
    def context(self) -> RequestContext:
        return self._context

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def child(self, name: str, began: float, ended: float, attributes: Attributes | None = None) -> None:
        span = self._tracer.start_span(name, self._as_parent, start_time=_since_epoch(began), attributes=attributes)
        span.end(_since_epoch(ended))

    def end(self, error: str | None = None) -> None:
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


def _since_epoch(at: float) -> int:
    """Nanoseconds since the epoch, for a time of the performance counter."""
    return time.time_ns() - round((time.perf_counter() - at) * 1e9)
