"""How often guesses turn out right, by how sure their drafter was. Plain numbers."""

from dataclasses import dataclass, field
from typing import Final

from splitlearn_client.speculation.drafter import LEVELS

_PRIOR_GUESSES: Final = 4.0
_KEPT: Final = 0.97
"""What is left of each guess's weight after another one: some thirty count."""
_KEPT_UNUSED: Final = 0.995
"""The same after a token for which nothing was guessed, so that after some hundred it is tried again."""


def _priors() -> list[float]:
    return [0.3 + 0.6 * level / (LEVELS - 1) for level in range(LEVELS)]


@dataclass
class Acceptance:
    """Of one answer: texts differ in how much they repeat."""

    _priors: list[float] = field(default_factory=_priors)
    _right: list[float] = field(default_factory=lambda: [0.0] * LEVELS)
    _tried: list[float] = field(default_factory=lambda: [0.0] * LEVELS)

    def probability(self, level: int) -> float:
        """That a guess is right if those before it are."""
        right = self._right[level] + _PRIOR_GUESSES * self._priors[level]
        return right / (self._tried[level] + _PRIOR_GUESSES)

    def learn(self, level: int, n_guesses: int, n_right: int) -> None:
        """So many guesses ran, and the first `n_right` were right. What stood behind a wrong one says nothing."""
        for n in range(min(n_guesses, n_right + 1)):
            self._right[level] = _KEPT * self._right[level] + (n < n_right)
            self._tried[level] = _KEPT * self._tried[level] + 1

    def forget(self, level: int) -> None:
        """There were guesses of this level, and none of them ran."""
        self._right[level] *= _KEPT_UNUSED
        self._tried[level] *= _KEPT_UNUSED
