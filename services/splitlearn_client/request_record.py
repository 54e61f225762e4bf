"""What is told of a generation when it ends, however it ends: metrics, a log line, a span. Never prompts or answers."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from splitlearn_client.errors import RequestError
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.metrics import ABORT, ClientMetrics
from splitlearn_client.report import Report, together
from splitlearn_client.request_info import RequestInfo
from splitlearn_comm.tracing import Attributes, Span, Tracer

log = structlog.get_logger()


@dataclass
class RequestRecord:
    """Where a generation stands. `finish_reason` is that of its newest token, "abort" if its caller hung up."""

    finish_reason: str | None = None
    code: str = "internal_error"
    error: RequestError | None = None

    @property
    def failed(self) -> str | None:
        """The code of the error that ended it; None if it ended well, or its caller hung up."""
        return self.code if self.finish_reason is None else None


@contextmanager
def recorded(
    metrics: ClientMetrics,
    tracer: Tracer,
    info: RequestInfo,
    reports: Sequence[Report],
    attributes: Attributes,
) -> Iterator[RequestRecord]:
    """The block answers one prompt, or embeds all inputs; it fills its reports, and sets the record's finish reason.

    Args:
        reports: the prompt's, and those of its answers if there are several; more may come while the block runs.
        attributes: of its span; see `span_attributes`.
    """
    record, report = RequestRecord(), reports[0]
    span = tracer.start("llm_request", info.context, min(report.began, (info.tokenized or (report.began,))[0]))
    span.set(attributes)
    report.context = span.context
    try:
        with metrics.in_progress():
            yield record
    except (asyncio.CancelledError, GeneratorExit):
        record.finish_reason = record.finish_reason or ABORT
        raise
    except RequestError as error:
        record.finish_reason, record.code, record.error = None, error.code, error
        raise
    except Exception:
        record.finish_reason = None
        raise
    finally:
        report = together(reports)
        _count(metrics, record, report)
        _log(record, info, report)
        _end(span, record, info, report)
        # of a list of prompts the first bears it
        info.tokenized = None


def span_attributes(operation: str, model: str) -> Attributes:
    """What a request's span says of the request, in the words of OpenTelemetry's conventions for generative AI.

    https://github.com/open-telemetry/semantic-conventions-genai, where they are still in development.
    """
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "splitlearn",
        "gen_ai.request.model": model,
    }


def generation_attributes(operation: str, model: str, wanted: GenerationRequest) -> Attributes:
    """As `span_attributes`, with what decides the answer."""
    sampling = wanted.sampling
    found = {
        **span_attributes(operation, model),
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }
    return found if wanted.max_tokens is None else found | {"gen_ai.request.max_tokens": wanted.max_tokens}


def _count(metrics: ClientMetrics, record: RequestRecord, report: Report) -> None:
    if record.finish_reason is None:
        metrics.request_failed(record.code, report)
    else:
        metrics.request_succeeded(record.finish_reason, report)


def _log(record: RequestRecord, info: RequestInfo, report: Report) -> None:
    """One line, with where the time went."""
    line: dict[str, Any] = {
        "request_id": info.context.request_id,
        "session": report.session,
        "finish_reason": record.finish_reason or "error",
        "prompt_tokens": report.prompt_tokens,
        "completion_tokens": report.completion_tokens,
        "cached_tokens": report.reused_tokens,
        "replays": report.replays,
        "failovers": len(report.failovers),
        **{f"{name}_seconds": round(seconds, 4) for name, seconds in _seconds(info, report).items()},
    }
    if info.tenant:
        line["tenant"] = info.tenant
    if record.failed is not None:
        line["code"] = record.failed
    if record.error is not None and record.error.status >= 500:
        # one of the caller's may quote the request
        line["error"] = str(record.error)
    write = log.warning if record.failed is not None and "error" in line else log.info
    write("request finished", **line)


def _seconds(info: RequestInfo, report: Report) -> dict[str, float]:
    """Where the time went: the phases of the request, and what each station computed or waited in all of them."""
    phases = report.phases
    found = {} if info.tokenized is None else {"tokenize": info.tokenized[1] - info.tokenized[0]}
    if phases is not None:
        found |= {"time_to_first_token": phases.time_to_first_token, "queue": phases.queue}
        found |= {"prefill": phases.prefill, "decode": phases.decode}
    stations = {"trunk_queue" if name == "queue" else name: seconds for name, seconds in report.timings.items()}
    return found | stations


def _end(span: Span, record: RequestRecord, info: RequestInfo, report: Report) -> None:
    if info.tokenized is not None:
        span.child("tokenize", *info.tokenized)
    if report.first_token is not None:
        span.child("prefill", report.began, report.first_token)
        span.child("decode", report.first_token, report.last_token or report.first_token)
    span.set(_result(record, info, report))
    span.end(record.failed)


def _result(record: RequestRecord, info: RequestInfo, report: Report) -> Attributes:
    """Where the conventions have no word, vLLM's (vllm/tracing), and then ours."""
    phases = report.phases
    latency = {}
    if phases is not None:
        latency = {
            "gen_ai.latency.time_to_first_token": phases.time_to_first_token,
            "gen_ai.latency.time_in_queue": phases.queue,
            "gen_ai.latency.time_in_model_prefill": phases.prefill,
            "gen_ai.latency.time_in_model_decode": phases.decode,
            "gen_ai.latency.e2e": phases.e2e,
        }
    return {
        "gen_ai.request.id": info.context.request_id,
        "gen_ai.usage.input_tokens": report.prompt_tokens,
        "gen_ai.usage.output_tokens": report.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": report.reused_tokens,
        "gen_ai.response.finish_reasons": [record.finish_reason or "error"],
        **latency,
        "splitlearn.session": report.session,
        "splitlearn.replays": report.replays,
        "splitlearn.failovers": len(report.failovers),
        **({"splitlearn.tenant": info.tenant} if info.tenant else {}),
    }
