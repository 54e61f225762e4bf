"""Latency and throughput against load, as a PNG."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from splitlearn_cli.load.record import MeasuredLevel
from splitlearn_cli.load.summary import Distribution, summarize
from splitlearn_command.extras import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_AXIS: Final = {"concurrency": "requests in flight", "rate": "arrivals per second"}
# from this ratio of the greatest to the smallest load on, the axis is logarithmic
_WIDE: Final = 8
_P50, _P90, _COUNT = "#1f5fa8", "#d1722a", "#3b7d4f"

Line = tuple[str, str, list[tuple[float, float]]]


def require_matplotlib() -> None:
    """Raises MissingExtra if it is not installed. Call it before measuring."""
    if find_spec("matplotlib") is None:
        raise MissingExtra(["matplotlib"], "bench", what="--plot")


def draw(path: Path, title: str, levels: Sequence[MeasuredLevel]) -> None:
    """Writes `path`: time to first token, time between chunks, and output tokens/s, each against load."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(12, 4.2), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1))
    FigureCanvasAgg(figure)
    ordered = sorted(levels, key=lambda level: level.load.value)
    summaries = [(level.load.value, summarize(level.records)) for level in ordered]
    failed = [f"{s.requests - s.answered} of {s.requests} at {load:g}" for load, s in summaries if s.failures]
    figure.suptitle(f"{title}\nfailed: {', '.join(failed)}" if failed else title, fontsize=11)
    panels = figure.subplots(1, 3)
    _latency(panels[0], "time to first token", [(load, summary.ttft) for load, summary in summaries])
    _latency(panels[1], "time between chunks", [(load, summary.itl) for load, summary in summaries])
    speeds = [(load, summary.output_tokens_per_second) for load, summary in summaries]
    _panel(panels[2], "throughput", "output tokens per second", [("", _COUNT, speeds)])
    for panel in panels:
        _loads(panel, ordered)
    figure.savefig(path, format="png")


def _latency(panel: "Axes", title: str, spreads: Sequence[tuple[float, Distribution | None]]) -> None:
    known = [(load, spread) for load, spread in spreads if spread is not None]
    slow = any(spread.p90 >= 2 for _, spread in known)
    scale, unit = (1, "seconds") if slow else (1000, "milliseconds")
    lines: list[Line] = [
        ("p90", _P90, [(load, spread.p90 * scale) for load, spread in known]),
        ("p50", _P50, [(load, spread.p50 * scale) for load, spread in known]),
    ]
    _panel(panel, title, unit, lines)
    panel.legend(frameon=False)


def _panel(panel: "Axes", title: str, unit: str, lines: Sequence[Line]) -> None:
    for label, colour, points in lines:
        panel.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour, label=label, markersize=5)
    panel.set_title(title, fontsize=10)
    panel.set_ylabel(unit)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _loads(panel: "Axes", levels: Sequence[MeasuredLevel]) -> None:
    values = sorted({level.load.value for level in levels})
    if values[-1] >= _WIDE * values[0]:
        panel.set_xscale("log", base=2)
    else:
        panel.set_xlim(left=0)
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.minorticks_off()
    panel.set_xlabel(_AXIS[levels[0].load.kind])
