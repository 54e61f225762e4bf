"""Plots of a report: leakage against the cut, and against what the distortion costs."""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cleangpt.writing import write_figure
from splitlearn_privacy.cut_model import Seen
from splitlearn_privacy.rendering import LOWER_BOUND, title
from splitlearn_privacy.report import Cell, Leak, Report
from splitlearn_privacy.scoring import Share

_COLORS: Final = ("#8b949e", "#d29922", "#d1722a", "#a371f7", "#1f5fa8", "#3b7d4f")
_MARKS: Final = {Seen.OUTGOING: "o", Seen.CACHE: "^", Seen.RETURNED: "s"}


def plot_cuts(report: Report, file: Path) -> None:
    """Writes top-1 shares by the layer behind which rows are seen, without distortion where that was measured."""
    figure, axes = _figure(report)
    plain = report.cells[0].distortion
    cells = [cell for cell in report.cells if cell.distortion == plain]
    for (attack, seen), color in _lines(cells):
        # cuts that end at the same layer return the same rows
        points = {_layer(cell, seen): leak.score.top_1 for cell in cells for leak in _of(cell, attack, seen)}
        _draw(axes, sorted(points.items(), key=itemgetter(0)), color, _MARKS[seen], f"{attack}, {seen}")
    ticks = sorted({_layer(cell, seen) for cell in cells for seen in (Seen.OUTGOING, Seen.RETURNED)})
    axes.set_xticks(ticks)
    axes.set_xlabel(f"layers before the cut ({plain})")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    write_figure(figure, file)


def plot_utility(report: Report, file: Path) -> None:
    """Writes the strongest attack's top-1 share of each cell by what the distortion adds to the perplexity."""
    figure, axes = _figure(report)
    for cut, color in zip(dict.fromkeys(cell.layers for cell in report.cells), _cycle(), strict=False):
        cells = [cell for cell in report.cells if cell.layers == cut]
        worst = [(cell, leak) for cell in cells if (leak := cell.worst) is not None]
        points = [(cell.costs.perplexity_change, leak.score.top_1) for cell, leak in worst]
        _draw(axes, points, color, "o", f"layers {cut}", line="")
        for (cell, _), (change, share) in zip(worst, points, strict=True):
            text = str(cell.distortion)
            axes.annotate(text, (change, 100 * share.value), xytext=(6, -10), textcoords="offset points", fontsize=7)
    axes.set_xlabel("perplexity that codec and noise add")
    axes.margins(x=0.2)
    axes.legend(frameon=False, fontsize=8)
    write_figure(figure, file)


def _figure(report: Report) -> tuple[Figure, Axes]:
    # not pyplot, which would keep the figure for the life of the process
    figure = Figure(figsize=(9, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(f"{title(report)}\n{LOWER_BOUND}", fontsize=9)
    axes.set(ylim=(-2, 104), ylabel="tokens read (top-1, %)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _lines(cells: Iterable[Cell]) -> Iterable[tuple[tuple[str, Seen], str]]:
    names = dict.fromkeys((leak.attack, leak.seen) for cell in cells for leak in cell.leaks)
    color_of = dict(zip(dict.fromkeys(attack for attack, _ in names), _cycle(), strict=False))
    return [(name, color_of[name[0]]) for name in names]


def _cycle() -> Iterable[str]:
    while True:
        yield from _COLORS


def _of(cell: Cell, attack: str, seen: Seen) -> list[Leak]:
    return [leak for leak in cell.leaks if (leak.attack, leak.seen) == (attack, seen)]


def _layer(cell: Cell, seen: Seen) -> int:
    first, last = cell.layers.split("-")
    return int(last if seen is Seen.RETURNED else first)


def _draw(
    axes: Axes, points: Sequence[tuple[float, Share]], color: str, mark: str, label: str, *, line: str = "-"
) -> None:
    values = [100 * share.value for _, share in points]
    errors = [[100 * (s.value - s.low) for _, s in points], [100 * (s.high - s.value) for _, s in points]]
    xs = [x for x, _ in points]
    axes.errorbar(xs, values, errors, fmt=f"{mark}{line}", color=color, label=label, markersize=5, capsize=3)
