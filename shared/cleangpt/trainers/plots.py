"""Plots of loss curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cleangpt.trainers.history import History
from cleangpt.writing import write_figure

_SMOOTHED_OVER = 50


def draw_curves(histories: Mapping[str, History], file: Path) -> None:
    """Writes `file` in the format of its extension: losses above, learning rates below, one color per history.

    The keys label the legend; a single history may have an empty name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for number, (name, history) in enumerate(histories.items()):
        color, label = f"C{number}", f"{name}, " if name else ""
        steps = range(1, history.step + 1)
        losses.plot(steps, history.losses, color=color, alpha=0.25, linewidth=0.8)
        losses.plot(steps, smoothed(history.losses), color=color, linewidth=1.6, label=f"{label}training (smoothed)")
        if history.evaluations:
            points = [(each.step, each.loss) for each in history.evaluations]
            losses.plot(
                *zip(*points, strict=True),
                color=color,
                linestyle="--",
                marker="o",
                markersize=4,
                label=f"{label}validation",
            )
        rates.plot(steps, history.rates, color=color)
    losses.set_ylabel("loss, nats per token")
    losses.legend()
    rates.set_ylabel("learning rate")
    rates.set_xlabel("step")
    rates.set_ylim(bottom=0)
    for axes in (losses, rates):
        axes.grid(visible=True, alpha=0.3)
    write_figure(figure, file, dpi=120)


def smoothed(values: Sequence[float]) -> list[float]:
    """An exponential moving average over 50 steps, or a fiftieth of all steps if fewer; unbiased at the start."""
    keep = 1.0 - 1.0 / max(1.0, min(_SMOOTHED_OVER, len(values) / 50))
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total = keep * total + (1.0 - keep) * value
        weight = keep * weight + (1.0 - keep)
        found.append(total / weight)
    return found
