"""Guesses that the text goes on as it did where its last tokens stood before, in the prompt or in the answer.

As in "Prompt Lookup Decoding" (Saxena, 2023) and in vLLM's method `ngram`, but by the longest match up to a bound, and
not by one of fixed length.

Shapes: T ids.
"""

from collections.abc import AsyncGenerator, Sequence
from itertools import cycle
from typing import Final

import numpy as np
from numpy.typing import NDArray

from splitlearn_client.speculation.drafter import LEVELS, Guess

_SHORTEST: Final = 2
_LONGEST: Final = 32
# how far back it looks, and how many of the latest places it compares; both bound the time, which others wait for
_FARTHEST: Final = 1 << 16
_MOST_PLACES: Final = 256
_MOST_GUESSES: Final = 64


class PromptLookup:
    """Looks up the last tokens of one answer; see `Drafter`. The level grows with the length of the match."""

    def __init__(self, _most_rows: int = 0) -> None:
        self._ids_T: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._n_ids = 0

    async def guesses(self, ids: Sequence[int]) -> AsyncGenerator[Guess]:
        """What followed the latest of the longest matches. One that reaches the end repeats itself."""
        self._learn(ids)
        ids_T = self._ids_T[max(0, self._n_ids - _FARTHEST) : self._n_ids]
        found = _longest_match(ids_T)
        if found is None:
            return
        end, length = found
        level = _level(length)
        for token in cycle(ids_T[end : end + _MOST_GUESSES].tolist()):
            yield Guess(token, level)

    def away(self, ids: Sequence[int]) -> None:
        """Looking up takes no time worth saving."""

    async def aclose(self) -> None:
        pass

    def _learn(self, ids: Sequence[int]) -> None:
        if len(ids) > self._ids_T.size:
            grown = np.empty(2 * len(ids), dtype=np.int32)
            grown[: self._n_ids] = self._ids_T[: self._n_ids]
            self._ids_T = grown
        self._ids_T[self._n_ids : len(ids)] = ids[self._n_ids :]
        self._n_ids = len(ids)


def _longest_match(ids_T: NDArray[np.int32]) -> tuple[int, int] | None:
    """Where the tokens behind the latest of the longest matches begin, and how long it is; None if there is none."""
    n_ids = ids_T.size
    if n_ids <= _SHORTEST:
        return None
    # behind each place, the two tokens before it being the last two
    ends = np.flatnonzero((ids_T[1:-1] == ids_T[-1]) & (ids_T[:-2] == ids_T[-2]))[-_MOST_PLACES:] + _SHORTEST
    if not ends.size:
        return None
    length = _SHORTEST
    while length < _LONGEST:
        longer = ends[ends > length]
        longer = longer[ids_T[longer - length - 1] == ids_T[n_ids - length - 1]]
        if not longer.size:
            break
        ends, length = longer, length + 1
    return int(ends[-1]), length


def _level(length: int) -> int:
    """2, 3, 4, 5 and 6, 7 to 9, 10 to 14, 15 to 23, and more."""
    return min(int(np.searchsorted((2, 3, 4, 6, 9, 14, 23), length)), LEVELS - 1)
