"""How often guesses turn out right, by how sure their drafter was. Plain numbers."""

from dataclasses import dataclass, field
from typing import Final, Protocol

from splitlearn_client.speculation.drafter import LEVELS

_PRIOR_GUESSES: Final = 4.0
_PRIOR: Final = 0.5
_KEPT: Final = 0.97
"""What is left of each guess's weight after another one: some thirty of an answer count."""
_KEPT_OF_ALL: Final = 0.998
"""The same of all answers together: some five hundred."""


class Acceptance(Protocol):
    """How likely guesses of each level are right."""

    def probability(self, level: int) -> float:
        """That a guess is right if those before it are."""

    @property
    def forecast(self) -> float:
        """That the next guess is right, before it is made: nobody knows its level yet."""


class Expected:
    """Before anything was seen: surer guesses are likelier."""

    def probability(self, level: int) -> float:
        return 0.3 + 0.6 * level / (LEVELS - 1)

    @property
    def forecast(self) -> float:
        return _PRIOR


@dataclass
class Seen:
    """What was seen counts as soon as there is some of it, and what is expected before.

    Attributes:
        expected: what is typical, before anything was seen here.
        kept: what is left of each guess's weight after another one.
    """

    expected: Acceptance
    kept: float
    _right: list[float] = field(default_factory=lambda: [0.0] * LEVELS)
    _tried: list[float] = field(default_factory=lambda: [0.0] * LEVELS)

    def probability(self, level: int) -> float:
        right = self._right[level] + _PRIOR_GUESSES * self.expected.probability(level)
        return right / (self._tried[level] + _PRIOR_GUESSES)

    @property
    def forecast(self) -> float:
        return self._share(self.expected.forecast)

    @property
    def overall(self) -> float:
        """That a guess of any level is right, if what is typical says nothing: texts differ."""
        return self._share(_PRIOR)

    def _share(self, prior: float) -> float:
        return (sum(self._right) + _PRIOR_GUESSES * prior) / (sum(self._tried) + _PRIOR_GUESSES)

    def learn(self, level: int, *, right: bool) -> None:
        """A guess of that level stood behind right ones, if behind any."""
        self._right[level] = self.kept * self._right[level] + right
        self._tried[level] = self.kept * self._tried[level] + 1


def of_all_answers() -> Seen:
    """What is typical of a service's answers."""
    return Seen(Expected(), _KEPT_OF_ALL)


def of_one_answer(typical: Acceptance) -> Seen:
    """Texts differ in how much they repeat."""
    return Seen(typical, _KEPT)
