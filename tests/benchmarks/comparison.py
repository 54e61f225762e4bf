"""What a benchmark found, as rows of a markdown table. Plain numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.figures import Figure


@dataclass(frozen=True)
class Goal:
    """A bound of a ratio or of a measured number."""

    value: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.value:g}"

    def is_reached(self, found: float) -> bool:
        return found <= self.value if self.at_most else found >= self.value


@dataclass(frozen=True)
class Comparison:
    """Two sides, measured in turns: one entry a round in `base` and `ours`, in `unit`. The ratio is ours / base."""

    what: str
    unit: str
    base: Sequence[float]
    ours: Sequence[float]
    goal: Goal

    @property
    def figure(self) -> Figure:
        return Figure(self.what, self.unit, self.ours, not self.goal.at_most, self.base)

    @property
    def ratios(self) -> list[float]:
        return [ours / base for base, ours in zip(self.base, self.ours, strict=True)]

    @property
    def line(self) -> str:
        ratio = median(self.ratios)
        return (
            f"| {self.what} | {number(median(self.base))} | {number(median(self.ours))} {self.unit} "
            f"| **{ratio:.2f}** | {self.goal} | {verdict(self.goal, ratio)} "
            f"| {', '.join(f'{each:.2f}' for each in self.ratios)} |"
        )


@dataclass(frozen=True)
class Measure:
    """One number, measured several times. `detail` is what else was measured of it."""

    what: str
    unit: str
    found: Sequence[float]
    goal: Goal
    detail: str = ""

    @property
    def figure(self) -> Figure:
        return Figure(self.what, self.unit, self.found, not self.goal.at_most)

    @property
    def line(self) -> str:
        middle = median(self.found)
        return (
            f"| {self.what}{self.detail} | **{number(middle)}** {self.unit} "
            f"| {self.goal} | {verdict(self.goal, middle)} | {', '.join(number(each) for each in self.found)} |"
        )


def comparisons(rows: Iterable[Comparison]) -> str:
    head = "| what | against | ours | ratio | goal | reached | rounds |\n|---|---|---|---|---|---|---|\n"
    return _table(head, [row.line for row in rows])


def measures(rows: Iterable[Measure]) -> str:
    return _table("| what | measured | goal | reached | rounds |\n|---|---|---|---|---|\n", [row.line for row in rows])


def _table(head: str, lines: Sequence[str]) -> str:
    return head + "".join(f"{line}\n" for line in lines) if lines else ""


def number(value: float) -> str:
    """Three digits, and all of those before the point."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


def verdict(goal: Goal, found: float) -> str:
    return "yes" if goal.is_reached(found) else "no"
