"""How many guesses to send along. Plain numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_SLOWEST_OTHERS: Final = 1 / 0.95
"""How many times as long a step may take for those who share it, if all of them guess as much."""
_LEAST_GAIN: Final = 1.02
"""Less than this is not worth a row: estimates are not that good."""


def at_once(seconds: float) -> float:
    """Seconds from a frame to the next one, where that begins as soon as it can."""
    return seconds


@dataclass
class DraftLength:
    """Takes guesses for as long as they may give more tokens a second.

    Of `k` guesses that are right with the probabilities `p1, p2, ...` if those before them are, `1 + p1 + p1 p2 + ...`
    tokens come of a trip (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023). Where
    frames begin as soon as they can, each guess adds less than the one before it, so that the first one that does not
    pay is the end. Where they wait for a time, one that makes its frame miss it may pay together with those behind it.

    Attributes:
        plain: seconds of a trip without guesses.
        per_guess: seconds that each guess adds.
        most: guesses at most.
        n_others: sessions that share the steps. Their tokens count as much as this one's, and they get at least 0.95 of
            their pace.
        paced: seconds from a frame to the next one, where that could begin after so many.
        delay: seconds that each guess keeps the others waiting.
        length: how many of the guesses that were taken give most tokens a second.
    """

    plain: float
    per_guess: float
    most: int
    n_others: int = 0
    paced: Callable[[float], float] = at_once
    delay: float = 0.0
    length: int = 0
    _tokens: float = 1.0
    """That come of a trip with `length` guesses."""
    _n_taken: int = 0
    _tokens_taken: float = 1.0
    _chance: float = 1.0

    def seconds(self, n_guesses: int) -> float:
        """How long the next token waits for a trip with so many guesses."""
        return self.paced(self.plain + n_guesses * self.per_guess)

    @property
    def rate(self) -> float:
        """Tokens a second, the others' included, if `length` guesses are sent."""
        return self._rate(self.length, self._tokens)

    def takes(self, probability: float) -> bool:
        """Whether the next guess, which is right with that probability if those before it are, may be worth sending.

        It may if it pays, or if it would together with further ones that are as likely right.
        """
        if not self._may_pay(probability):
            return False
        self._n_taken += 1
        self._chance *= probability
        self._tokens_taken += self._chance
        if self._pays(self._n_taken, self._tokens_taken):
            self.length, self._tokens = self._n_taken, self._tokens_taken
        return True

    def _may_pay(self, probability: float) -> bool:
        chance, tokens = self._chance, self._tokens_taken
        for n_guesses in range(self._n_taken + 1, self.most + 1):
            if self._delays_others(n_guesses):
                break
            chance *= probability
            tokens += chance
            if self._pays(n_guesses, tokens):
                return True
        return False

    def _pays(self, n_guesses: int, tokens: float) -> bool:
        """Whether so many guesses, of which so many tokens come, give more tokens a second than `length` do."""
        least = _LEAST_GAIN ** (n_guesses - self.length)
        return self._rate(n_guesses, tokens) >= least * self._rate(self.length, self._tokens)

    def _rate(self, n_guesses: int, tokens: float) -> float:
        return (self.n_others + tokens) / self.seconds(n_guesses)

    def _delays_others(self, n_guesses: int) -> bool:
        added = n_guesses * (self.n_others + 1) * self.delay
        return self.n_others > 0 and added > (_SLOWEST_OTHERS - 1) * self.plain
