"""Plots of a report."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cleangpt.evaluation.predictions import Agreement, Likelihood
from cleangpt.evaluation.report import Figures, Report
from cleangpt.writing import write_figure

_STUDENT, _TEACHER, _FAINT, _INK = "#1f6feb", "#d29922", "#8b949e", "#30363d"
_MOST_POINTS = 32
_FEWEST_AT_A_POINT = 20


def plot_report(report: Report, file: Path) -> None:
    """Writes a plot in the format of the extension of `file` (png, svg, pdf).

    It shows loss by position in the text; with a teacher also agreement, error of hidden states, and size and speed
    relative to the teacher's.
    """
    has_teacher = report.teacher is not None and report.agreement is not None
    # not pyplot, which would keep the figure for the life of the process
    figure = Figure(figsize=(11, 7.6) if has_teacher else (7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2) if has_teacher else figure.subplots(1, 1, squeeze=False)
    _plot_losses(panels[0][0], report)
    if report.teacher is not None and report.agreement is not None:
        _plot_agreement(panels[0][1], report.agreement)
        _plot_blocks(panels[1][0], report)
        _plot_shares(panels[1][1], report.student, report.teacher)
    figure.suptitle(
        f"{report.student.name} on {report.text}: {report.student.likelihood.tokens:,} tokens, "
        f"perplexity {report.student.likelihood.perplexity:,.2f}",
        color=_INK,
    )
    write_figure(figure, file)


def loss_points(likelihood: Likelihood) -> list[tuple[float, float]]:
    """The mean position and loss (nats per token) of groups of neighboring positions, at most 32 points."""
    per_point = max(1, -(-len(likelihood.counts) // _MOST_POINTS))
    found = []
    for start in range(0, len(likelihood.counts), per_point):
        nats = likelihood.nats[start : start + per_point]
        counts = likelihood.counts[start : start + per_point]
        # positions that few rows reach would only show noise
        if sum(counts) >= min(_FEWEST_AT_A_POINT, likelihood.tokens):
            found.append((start + (len(counts) + 1) / 2, sum(nats) / sum(counts)))
    return found


def _plot_losses(axes: Axes, report: Report) -> None:
    models = [(report.student, _STUDENT), *([(report.teacher, _TEACHER)] if report.teacher else [])]
    for each, color in models:
        points = loss_points(each.likelihood)
        label = f"{each.name}, mean {each.likelihood.loss:.3f}"
        axes.plot([at for at, _ in points], [loss for _, loss in points], "o-", color=color, markersize=4, label=label)
    axes.set(xlabel="tokens before the one to predict", ylabel="loss, nats per token", title="Loss by position")
    axes.set_ylim(bottom=0)
    axes.grid(color=_FAINT, alpha=0.3)
    axes.legend()


def _plot_agreement(axes: Axes, agreement: Agreement) -> None:
    shares = [100 * agreement.top_1, 100 * agreement.top_5]
    bars = axes.bar(["top-1", "top-5"], shares, color=_STUDENT, width=0.5)
    axes.bar_label(bars, [f"{share:.1f} %" for share in shares], padding=3)
    axes.set(ylim=(0, 112), yticks=range(0, 101, 20), ylabel="share of positions (%)", title="Agreement")
    axes.set_xlabel(
        f"teacher's likeliest token among the student's likeliest\ndivergence {agreement.divergence:.3f} nats"
    )
    axes.set_xlim(-0.8, 1.8)
    axes.grid(axis="y", color=_FAINT, alpha=0.3)


def _plot_blocks(axes: Axes, report: Report) -> None:
    names = [f"{each.student} → {each.target}" for each in report.blocks]
    errors = [each.relative_mse for each in report.blocks]
    angles = [1 - each.cosine for each in report.blocks]
    at = range(len(names))
    for shift, values, color, label in (
        (-0.2, errors, _STUDENT, "relative squared error"),
        (0.2, angles, _TEACHER, "1 - cosine"),
    ):
        bars = axes.bar([x + shift for x in at], values, color=color, width=0.38, label=label)
        if len(names) <= 8:
            axes.bar_label(bars, [f"{value:.2g}" for value in values], padding=2, fontsize=8)
    axes.set_xticks(list(at), names)
    axes.set_xlim(-0.8, len(names) - 0.2)
    read = " (through the best linear map)" if any(each.is_mapped for each in report.blocks) else ""
    axes.set(xlabel="student's block → teacher's block", ylabel="error; 0 is equal", title=f"Hidden states{read}")
    axes.set_ylim(0, 1.2 * max(1e-9, *errors, *angles))
    axes.grid(axis="y", color=_FAINT, alpha=0.3)
    axes.legend()


def _plot_shares(axes: Axes, student: Figures, teacher: Figures) -> None:
    pairs = [
        ("parameters", student.parameters, teacher.parameters),
        ("bytes", student.bytes, teacher.bytes),
        ("tokens/s", student.tokens_per_second, teacher.tokens_per_second),
    ]
    known = [(name, own / other) for name, own, other in pairs if own is not None and other]
    bars = axes.barh([name for name, _ in known], [share for _, share in known], color=_STUDENT, height=0.5)
    axes.bar_label(bars, [f"{share:.2f}" for _, share in known], padding=4)
    axes.axvline(1.0, color=_TEACHER, linewidth=1.5)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="student over teacher", title="Size and speed")
