"""Traces of requests over all services, by OpenTelemetry if it is installed and has somewhere to send them."""

from __future__ import annotations

import os
from typing import Final

import structlog

from splitlearn_comm.tracing.interface import Attributes, NoTracer, Span, Tracer, TracingUnavailable

__all__ = ["Attributes", "NoTracer", "Span", "Tracer", "TracingUnavailable", "tracer_to"]

log = structlog.get_logger(__name__)

# https://opentelemetry.io/docs/specs/otel/protocol/exporter/
_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_INSTALL: Final = 'pip install "splitlearn[otel]"'


def tracer_to(endpoint: str | None, service_name: str) -> Tracer:
    """The tracer of a service; close it at the end.

    Args:
        endpoint: the URL that takes spans over OTLP and HTTP. None: what OpenTelemetry's variables name, and without
            them nothing is traced and nothing imported.

    Raises:
        TracingUnavailable: an endpoint is given, but OpenTelemetry is not installed. Variables alone, which may be set
            for all processes of a machine, get a warning.
    """
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_off or (endpoint is None and not any(os.environ.get(name) for name in _VARIABLES)):
        return NoTracer()
    try:
        from splitlearn_comm.tracing.otel import OtelTracer, exporting
    except ModuleNotFoundError as error:
        if endpoint is not None:
            raise TracingUnavailable(f"traces need the package {error.name}: {_INSTALL}") from error
        log.warning("no traces", reason=f"{error.name} is not installed", install=_INSTALL)
        return NoTracer()
    return OtelTracer(service_name, exporting(endpoint))
