"""How many guesses to send along. Plain numbers."""

from dataclasses import dataclass
from typing import Final

_SLOWEST_OTHERS: Final = 1 / 0.95
"""How many times as long a step may take for those who share it, if all of them guess as much."""
_LEAST_GAIN: Final = 1.02
"""Less than this is not worth a row: estimates are not that good."""


@dataclass
class DraftLength:
    """Takes guesses for as long as each gives more tokens a second.

    Of `k` guesses that are right with the probabilities `p1, p2, ...` if those before them are, `1 + p1 + p1 p2 + ...`
    tokens come of a trip (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023). Each
    guess adds less than the one before it, so that the first one that does not pay is the end.

    Attributes:
        plain: seconds of a trip without guesses.
        per_guess: seconds that each guess adds.
        most: guesses at most.
        n_others: sessions that share the steps. Their tokens count as much as this one's, and they get at least 0.95 of
            their pace.
    """

    plain: float
    per_guess: float
    most: int
    n_others: int = 0
    length: int = 0
    _tokens: float = 1.0
    _chance: float = 1.0

    @property
    def rate(self) -> float:
        """Tokens a second, the others' included, if what was taken is sent."""
        return self._rate(self._tokens, self.length)

    def takes(self, probability: float) -> bool:
        """Whether the next guess, which is right with that probability if those before it are, is to be sent too."""
        if self.length >= self.most or self._delays_others():
            return False
        chance = self._chance * probability
        if self._rate(self._tokens + chance, self.length + 1) < _LEAST_GAIN * self.rate:
            return False
        self._chance, self._tokens, self.length = chance, self._tokens + chance, self.length + 1
        return True

    def _rate(self, tokens: float, length: int) -> float:
        return (self.n_others + tokens) / (self.plain + length * self.per_guess)

    def _delays_others(self) -> bool:
        added = (self.length + 1) * (self.n_others + 1) * self.per_guess
        return self.n_others > 0 and added > (_SLOWEST_OTHERS - 1) * self.plain
