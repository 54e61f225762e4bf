"""How much of the texts an attack reads, with confidence intervals. Pure.

Shapes: N texts, T tokens of each, K guesses, R resamplings.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

_RESAMPLINGS: Final = 2000
_LOW, _HIGH = 2.5, 97.5


@dataclass(frozen=True)
class Share:
    """A share between 0 and 1, with the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @classmethod
    def over_texts(cls, of_text_N: NDArray[np.float64]) -> Self:
        """The mean over texts. The interval is a bootstrap's over texts, as the tokens of one text hang together.

        Where all texts agree, resampling finds no spread: then the bounds are those of the rule of three.
        """
        n_texts = len(of_text_N)
        chosen_RN = np.random.default_rng(0).integers(n_texts, size=(_RESAMPLINGS, n_texts))
        low, high = np.percentile(of_text_N[chosen_RN].mean(axis=1), [_LOW, _HIGH])
        if low == high:
            low, high = max(0.0, low - 3 / n_texts), min(1.0, high + 3 / n_texts)
        return cls(float(of_text_N.mean()), float(low), float(high))


@dataclass(frozen=True)
class Score:
    """`top_1`, `top_5`: how often the token is the first guess, or one of five. `f1`: see `token_f1`."""

    top_1: Share
    top_5: Share
    f1: Share

    @classmethod
    def of(cls, ids_NT: NDArray[np.int64], guesses_NTK: NDArray[np.int64]) -> Self:
        """Compares the guesses with the tokens."""
        is_right_NTK = guesses_NTK == ids_NT[..., None]
        f1_N = [token_f1(*each) for each in zip(ids_NT.tolist(), guesses_NTK[..., 0].tolist(), strict=True)]
        return cls(
            Share.over_texts(is_right_NTK[..., 0].mean(axis=1)),
            Share.over_texts(is_right_NTK.any(axis=-1).mean(axis=1)),
            Share.over_texts(np.array(f1_N)),
        )


def token_f1(ids: Sequence[int], found: Sequence[int]) -> float:
    """The harmonic mean of precision and recall of the found tokens, wherever they stand (SQuAD, arXiv 1606.05250)."""
    common = (Counter(ids) & Counter(found)).total()
    return 2 * common / (len(ids) + len(found))
