"""How long a token takes on its way through bottom, trunk and top, and how much guesses add. Plain numbers."""

from dataclasses import dataclass
from typing import Final

_SMOOTHING: Final = 0.2
_MOST_SLOWER: Final = 4.0
"""A trip counts as at most this many times as long as estimated: one that something held up tells little."""
_UNMEASURED_SHARE: Final = 0.1
"""Of a trip's time, that a guess is taken to add before one was measured."""
_SHARES: Final = (0.001, 0.5)
"""Of a trip's time, that a guess adds at least and at most: no measurement says that guesses are free, or never pay."""
_DRIFT: Final = 0.02
"""How far a trip without guesses takes what a guess adds back to what is taken before one was measured: where guesses
seem too dear to be tried, they are tried again."""
_TRIED_EVERY: Final = 33
"""Steps. Guesses are tried in one of so many although they may delay the sessions that share it too much: nothing else
would ever show that they take less."""


@dataclass
class TripCost:
    """Of all of a client's sessions: they share the engines and mostly the way. Seconds."""

    _plain: float | None = None
    _per_guess: float | None = None
    _computing: float = 0.0
    """Without guesses."""
    _computing_per_guess: float | None = None
    _n_steps: float = 0.0
    """That were shared since guesses were tried last."""

    @property
    def plain(self) -> float | None:
        """How long a trip without guesses takes; None before there was one."""
        return self._plain

    @property
    def per_guess(self) -> float:
        """What each guess adds to a trip."""
        return self._added(self._per_guess)

    @property
    def delay(self) -> float:
        """What each guess adds to what is computed. Only that keeps other sessions waiting: they share no frame."""
        return self._added(self._computing_per_guess)

    def is_due(self, n_others: int) -> bool:
        """Counts one session's part of a step that so many others share. True if guesses have to be tried in it, which
        no other session does then."""
        self._n_steps += 1 / (n_others + 1)
        if self._n_steps < _TRIED_EVERY:
            return False
        self._n_steps = 0.0
        return True

    def not_tried(self) -> None:
        """There were none, although some were due: the next session tries its own."""
        self._n_steps = float(_TRIED_EVERY)

    def learn(self, n_guesses: int, seconds: float, computing: float = 0.0) -> None:
        """Updates the estimates from one trip, of which so much was computing."""
        if not n_guesses:
            self._computing = computing if self._plain is None else _blend(self._computing, computing)
            self._plain = _blend(self._plain, seconds)
            if self._per_guess is not None:
                self._per_guess = (1 - _DRIFT) * self.per_guess + _DRIFT * self._plain * _UNMEASURED_SHARE
        elif self._plain is not None:
            if seconds < self._plain:
                # trips have become faster
                self._plain = _blend(self._plain, seconds)
            added = max(0.0, min(seconds, _MOST_SLOWER * self._plain) - self._plain) / n_guesses
            self._per_guess = (1 - _SMOOTHING) * self.per_guess + _SMOOTHING * added
            # what it takes scatters with the sessions that share the step, to both sides
            added = (min(computing, _MOST_SLOWER * self._computing) - self._computing) / n_guesses
            before = self._computing_per_guess
            self._computing_per_guess = added if before is None else (1 - _SMOOTHING) * before + _SMOOTHING * added

    def _added(self, measured: float | None) -> float:
        plain = self._plain or 0.0
        if measured is None:
            return plain * _UNMEASURED_SHARE
        least, most = (plain * share for share in _SHARES)
        return min(max(measured, least), most)


@dataclass
class DraftCost:
    """How long a drafter takes for a guess. Seconds."""

    seconds: float = 0.0

    def learn(self, seconds: float) -> None:
        """Updates the estimate from one guess."""
        if seconds:
            self.seconds = _blend(self.seconds or None, seconds)


def _blend(before: float | None, new: float) -> float:
    if before is None:
        return new
    return (1 - _SMOOTHING) * before + _SMOOTHING * (min(new, _MOST_SLOWER * before) if before else new)
