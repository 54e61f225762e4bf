"""A report as lines of text, and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from splitlearn_privacy.report import Cell, Leak, Report
from splitlearn_privacy.scoring import Share

LOWER_BOUND: Final = "Every share is a lower bound: the worker can read at least so much."
UNKNOWN_TEXT: Final = (
    "The model predicts these texts no better than chance: its weights are random, or it was trained on others. What "
    "it leaks would say nothing, so only costs were measured."
)
TRACES_HEADING: Final = ("FRAMES", "OBSERVER", "NAMED %")
TIMINGS_HEADING: Final = ("FRAMES", "SIZES NAME %", "TIMES NAME %", "BOTH NAME %")
HEADING: Final = ("SEEN", "ATTACK", "TOKENS", "TOP-1 %", "TOP-5 %", "F1 %", "MISSED %")


def title(report: Report) -> str:
    """What was measured, on which texts."""
    return (
        f"{report.model}, {report.text}: {report.n_test} texts of {report.length} tokens to read, "
        f"{report.n_training} others to learn from; the worker {report.worker}"
    )


def costs_line(cell: Cell) -> str:
    """The cut, its distortion, and what they cost."""
    costs = cell.costs
    return (
        f"layers {cell.layers}, {cell.distortion}: perplexity {costs.perplexity:.2f} ({costs.perplexity_change:+.2f}), "
        f"{costs.agreement:.1%} of its next tokens as before, "
        f"client {costs.client_seconds * 1e3:.1f} ms per token and {costs.client_bytes / 1e6:.1f} MB, "
        f"{costs.row_bytes} bytes per row and way"
    )


def rows(cell: Cell) -> Iterator[tuple[str, ...]]:
    """The table of one cell, without its heading; shares are percentages with their 95 % intervals."""
    for leak in cell.leaks:
        score = leak.score
        shares = (_percent(each) for each in (score.top_1, score.top_5, score.f1))
        missed = "" if leak.missed is None else f"{100 * leak.missed:.1f}"
        yield leak.seen, leak.attack, leak.target, *shares, missed


def traces_line(report: Report) -> str:
    """What the table of traces is about."""
    return f"sizes of frames name the text, of {report.traces[0].n_texts} that the observer has seen before:"


def trace_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """The table of traces, without its heading."""
    return ((each.frames, each.observer, _percent(each.named)) for each in report.traces)


def timings_line(report: Report) -> str:
    """What the table of timings is about."""
    return (
        f"times of frames name the text, of {report.timings[0].n_texts} of like length that the observer has seen once "
        "before:"
    )


def timing_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """The table of timings, without its heading."""
    for each in report.timings:
        yield str(each.setup), *map(_percent, (each.by_sizes, each.by_times, each.by_both))


def verdict(leak: Leak) -> str:
    """The worst leak in a sentence."""
    return f"{leak.attack} on {leak.seen} rows names {_percent(leak.score.top_1)} % of the tokens"


def as_json(report: Report) -> dict[str, Any]:
    """All numbers; shares between 0 and 1, with `low` and `high` of their 95 % intervals."""
    return {"note": LOWER_BOUND if report.knows_texts else UNKNOWN_TEXT, **asdict(report)}


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})"
