"""How long a token takes on its way through bottom, trunk and top, and how much guesses add. Plain numbers."""

from dataclasses import dataclass
from typing import Final

_SMOOTHING: Final = 0.2
_MOST_SLOWER: Final = 4.0
"""A trip counts as at most this many times as long as estimated: one that something held up tells little."""
_UNMEASURED_SHARE: Final = 0.1
"""Of a trip's time, that a guess is taken to add before one was measured."""


@dataclass
class TripCost:
    """Of all of a client's sessions: they share the engines and mostly the way. Seconds."""

    _plain: float | None = None
    _per_guess: float | None = None

    @property
    def plain(self) -> float | None:
        """How long a trip without guesses takes; None before there was one."""
        return self._plain

    @property
    def per_guess(self) -> float:
        """What each guess adds."""
        return (self._plain or 0.0) * _UNMEASURED_SHARE if self._per_guess is None else self._per_guess

    def learn(self, n_guesses: int, seconds: float) -> None:
        """Updates the estimates from one trip."""
        if not n_guesses:
            self._plain = _blend(self._plain, seconds)
        elif self._plain is not None:
            bounded = min(seconds, _MOST_SLOWER * self._plain)
            self._per_guess = _blend(self.per_guess, max(0.0, bounded - self._plain) / n_guesses)


def _blend(before: float | None, new: float) -> float:
    if before is None:
        return new
    return (1 - _SMOOTHING) * before + _SMOOTHING * (min(new, _MOST_SLOWER * before) if before else new)
