"""The output of a load test: two tables, a line per kind of failure, and all numbers as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from splitlearn_cli.load.record import MeasuredLevel
from splitlearn_cli.load.summary import Distribution, Summary, summarize
from splitlearn_cli.terminal import aligned

# beyond this, the numbers may show the generator's limit instead of the server's
_LAG_SECONDS: Final = 0.05
_MESSAGE_CHARACTERS: Final = 160


def tables(levels: Sequence[MeasuredLevel]) -> str:
    """Throughput, with a row per level, and latencies in milliseconds, with a row per level and latency."""
    summaries = [(_name(level), summarize(level.records)) for level in levels]
    load = levels[0].load.kind.upper()
    head = (load, "REQUESTS", "FAILED", "SECONDS", "REQUESTS/S", "OUTPUT TOKENS/S", "ALL TOKENS/S", "TOKENS IN", "OUT")
    throughput = aligned([head, *(_throughput(name, summary) for name, summary in summaries)])
    latencies = [row for name, summary in summaries for row in _latencies(name, summary)]
    return f"{throughput}\n\n{aligned([(load, 'MILLISECONDS', 'MEAN', 'P50', 'P90', 'P99'), *latencies])}"


def remarks(levels: Sequence[MeasuredLevel]) -> list[str]:
    """One line per kind of failure, with its first message, and one per caveat about the numbers."""
    lines = []
    for level in levels:
        summary = summarize(level.records)
        for kind, count in summary.failures.items():
            first = next(failure for failure in level.failures if failure.kind == kind)
            wait = f" (Retry-After: {first.retry_after})" if first.retry_after else ""
            lines.append(f"{level.load}: {count} x {kind}{wait}: {_short(first.message)}")
        if summary.without_text:
            lines.append(f"{level.load}: {summary.without_text} answers had no text, and no time to first token")
        if summary.greatest_lag is not None and summary.greatest_lag > _LAG_SECONDS:
            late = f"{summary.greatest_lag * 1000:.0f} ms"
            lines.append(
                f"{level.load}: requests were sent up to {late} late; this machine cannot keep up with the rate"
            )
        if level.interrupted:
            lines.append(f"{level.load}: interrupted, {len(level.records)} of {level.planned} requests had ended")
    return lines


def as_json(about: dict[str, Any], levels: Sequence[MeasuredLevel]) -> dict[str, Any]:
    """All results as JSON. Times in seconds; `about` describes the run."""
    return {
        **about,
        "levels": [
            {
                "load": asdict(level.load),
                "interrupted": level.interrupted,
                "summary": asdict(summarize(level.records)),
                "requests": [asdict(record) | {"tpot": record.tpot} for record in level.records],
            }
            for level in levels
        ],
    }


def _name(level: MeasuredLevel) -> str:
    return f"{level.load.value:g}"


def _throughput(name: str, summary: Summary) -> tuple[str, ...]:
    return (
        name,
        str(summary.requests),
        str(summary.requests - summary.answered),
        f"{summary.duration:.1f}",
        f"{summary.requests_per_second:.2f}",
        f"{summary.output_tokens_per_second:.1f}",
        "-" if summary.total_tokens_per_second is None else f"{summary.total_tokens_per_second:.1f}",
        _mean(summary.prompt_tokens),
        _mean(summary.output_tokens),
    )


def _latencies(name: str, summary: Summary) -> list[tuple[str, ...]]:
    measured = (
        ("first token", summary.ttft),
        ("between chunks", summary.itl),
        ("per token", summary.tpot),
        ("whole answer", summary.e2e),
    )
    return [(name if place == 0 else "", what, *_cells(spread)) for place, (what, spread) in enumerate(measured)]


def _cells(spread: Distribution | None) -> tuple[str, ...]:
    if spread is None:
        return ("-",) * 4
    return tuple(_milliseconds(value) for value in (spread.mean, spread.p50, spread.p90, spread.p99))


def _milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _mean(spread: Distribution | None) -> str:
    return "-" if spread is None else f"{spread.mean:.0f}"


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _MESSAGE_CHARACTERS else f"{line[:_MESSAGE_CHARACTERS]}..."
