"""Figures of two trees, measured in turns, as rows of a markdown table. Plain numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.comparison import number
from tests.benchmarks.figures import Figure


@dataclass(frozen=True)
class OldAndNew:
    """One figure: what the old tree's and the new tree's processes found, one entry a round in each."""

    old: Sequence[Figure]
    new: Sequence[Figure]

    @property
    def name(self) -> str:
        return self.new[0].name

    @property
    def is_comparable(self) -> bool:
        """Differences and growth may be zero or less, and have no ratio."""
        return all(value > 0 for figure in (*self.old, *self.new) for value in figure.found)

    @property
    def gains(self) -> list[float]:
        """Of each round what the new tree gives of what the old one gave; more is better whatever the unit."""
        pairs = zip(self.old, self.new, strict=True)
        return [self._gain(median(old.found), median(new.found)) for old, new in pairs]

    @property
    def gain_of_bests(self) -> float:
        """The same of the best that each gave in all rounds: what other work on the machine disturbs least."""
        best = max if self.new[0].more_is_better else min
        old, new = (best(value for each in side for value in each.found) for side in (self.old, self.new))
        return self._gain(old, new)

    def gives(self, least: float) -> bool:
        """Whether the new tree gives so much of what the old one gave: by the rounds or by the bests.

        Noise alone moves each of them; what got slower moves both.
        """
        return not self.is_comparable or max(median(self.gains), self.gain_of_bests) >= least

    def _gain(self, old: float, new: float) -> float:
        return new / old if self.new[0].more_is_better else old / new

    @property
    def line(self) -> str:
        old, new = (median(value for each in side for value in each.found) for side in (self.old, self.new))
        values = f"{number(old)} | {number(new)} {self.new[0].unit}"
        if not self.is_comparable:
            return f"| {self.name} | {values} | - | - | - | - |"
        gains, of_medians = self.gains, new / old
        spread = f"{min(gains):.3f} to {max(gains):.3f}"
        return (
            f"| {self.name} | {values} | {of_medians:.3f} | **{median(gains):.3f}** | {spread} "
            f"| {self.gain_of_bests:.3f} |"
        )


def pair_up(
    old: Sequence[Sequence[Figure]], new: Sequence[Sequence[Figure]]
) -> tuple[list[OldAndNew], list[str], list[str]]:
    """By name, from the figures of each round; and the names that only the old and only the new tree has."""
    old_by_name, new_by_name = (_by_name(rounds) for rounds in (old, new))
    both = [OldAndNew(old_by_name[name], found) for name, found in new_by_name.items() if name in old_by_name]
    return both, [n for n in old_by_name if n not in new_by_name], [n for n in new_by_name if n not in old_by_name]


def _by_name(rounds: Iterable[Sequence[Figure]]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = {}
    for figures in rounds:
        for figure in figures:
            found.setdefault(figure.name, []).append(figure)
    return found


def table(rows: Iterable[OldAndNew]) -> str:
    head = f"| what | old | new | new / old | gives of what it gave | rounds | of the bests |\n{'|---' * 7}|\n"
    return head + "".join(f"{row.line}\n" for row in rows)
