"""How many guesses to send along. A pure function of plain numbers."""

from typing import Final

_SLOWEST_OTHERS: Final = 1 / 0.95
"""How many times as long a step may take for those who share it, if all of them guess as much."""
_LEAST_GAIN: Final = 1.02
"""Less than this is not worth the rows: estimates are not that good."""


def best_length(probability: float, plain: float, per_guess: float, most: int, n_others: int = 0) -> int:
    """The number of guesses that gives most tokens a second; 0 where none pays.

    Of `k` guesses, each right with the same probability if those before it are, `1 + p + ... + p^k` tokens come of a
    trip (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023).

    Args:
        probability: that a guess is right if those before it are.
        plain: seconds of a trip without guesses.
        per_guess: seconds that each guess adds.
        most: guesses at most.
        n_others: sessions that share the steps. Their tokens count as much as this one's, and they get at least 0.95
            of their pace.
    """
    if n_others and per_guess > 0:
        most = int(min(most, (_SLOWEST_OTHERS - 1) * plain / (per_guess * (n_others + 1))))
    best, best_rate = 0, _LEAST_GAIN * (n_others + 1) / plain
    tokens, chance = 1.0, 1.0
    for length in range(1, most + 1):
        chance *= probability
        tokens += chance
        rate = (n_others + tokens) / (plain + length * per_guess)
        if rate > best_rate:
            best, best_rate = length, rate
    return best
