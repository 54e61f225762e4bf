"""Plots of how a tokenizer uses its vocabulary."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cleangpt.analysis.usage import COVERAGES, TokenUsage
from cleangpt.writing import write_figure

_INK, _ACCENT, _FAINT = "#30363d", "#1f6feb", "#8b949e"


def plot_usage(usage: TokenUsage, file: Path, *, title: str) -> None:
    """Writes a plot in the format of the extension of `file` (png, svg, pdf).

    Left: the share of all uses that the most frequent tokens make up. Right: uses by rank on two
    logarithmic axes, where natural text is close to a straight line (Zipf).
    """
    # not pyplot, which would keep the figure for the life of the process
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _plot_coverage(left, usage)
    _plot_ranks(right, usage)
    unused = usage.vocab_size - usage.used
    figure.suptitle(
        f"{title}\n{usage.tokens:,} tokens, {usage.fertility:.2f} per word, {usage.compression:.2f} bytes each, "
        f"{unused:,} of {usage.vocab_size:,} never used",
        color=_INK,
    )
    write_figure(figure, file)


def _plot_coverage(axes: Axes, usage: TokenUsage) -> None:
    curve_R = 100 * usage.coverage_curve()
    axes.plot(np.arange(1, len(curve_R) + 1), curve_R, color=_ACCENT, linewidth=2)
    marks = [(usage.tokens_to_cover(share), 100 * share) for share in COVERAGES]
    axes.plot(*zip(*marks, strict=True), "o", color=_INK, markersize=5)
    for count, percent in marks:
        # below and to the right of the mark, where the rising curve never runs
        axes.annotate(f"{percent:g} %: {count:,}", (count, percent), xytext=(8, -14), textcoords="offset points")
    axes.set(xlabel="most frequent tokens", ylabel="share of all uses (%)", ylim=(0, 104), title="Coverage")
    # space for the last label
    axes.set_xlim(0, 1.15 * len(curve_R))
    axes.grid(color=_FAINT, alpha=0.3)


def _plot_ranks(axes: Axes, usage: TokenUsage) -> None:
    uses_R = usage.counts_V[usage.frequent_ids()]
    axes.loglog(np.arange(1, len(uses_R) + 1), uses_R, color=_ACCENT, linewidth=2)
    axes.set(xlabel="rank", ylabel="uses", title="Uses by rank")
    axes.grid(color=_FAINT, alpha=0.3)
