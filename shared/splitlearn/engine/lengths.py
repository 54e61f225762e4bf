"""How many rows sessions reach, learned from those that ended. Plain numbers."""

import math
from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field

_COVERAGE = 0.6
"""The share of sessions that reach no more rows than expected. What one has too many another has too few."""
_KNOWN_FROM = 2
"""Of fewer ended sessions than this, none has that many that reached less."""
_GROWTH_BEFORE_KNOWN = 1024
_REMEMBERED = 32


@dataclass
class _Ended:
    """What share of their `max_length` the last sessions reached, oldest first and sorted."""

    recent: deque[float] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)

    def add(self, share: float) -> None:
        if len(self.recent) == _REMEMBERED:
            self.ordered.pop(bisect_right(self.ordered, self.recent.popleft()) - 1)
        self.recent.append(share)
        insort(self.ordered, share)


@dataclass
class LengthEstimator:
    """Expects of a session what sessions with a similar `max_length` (within a factor of two) reached.

    Callers who name a limit often reach it. Callers who name none are given the whole context, and use little of it.
    So the two are never counted together. Before enough sessions have ended, a session is expected to reach its limit,
    but not to have more than 1,024 rows after its prompt unless that is as long.
    """

    _ended: dict[int, _Ended] = field(default_factory=dict)

    def learn(self, max_length: int, n_rows: int) -> None:
        """A session ended that could have had `max_length` rows and reached `n_rows`."""
        self._ended.setdefault(max_length.bit_length(), _Ended()).add(min(n_rows / max_length, 1.0))

    def expect(self, max_length: int, n_rows: int) -> int:
        """The rows that a session will reach, more likely less than more, if it has `n_rows` now.

        A session that has more than any before it is expected to become half as long again.
        """
        ended = self._ended.get(max_length.bit_length())
        if ended is None or len(ended.ordered) < _KNOWN_FROM:
            return min(max_length, n_rows + max(n_rows, _GROWTH_BEFORE_KNOWN))
        first_longer = bisect_right(ended.ordered, n_rows / max_length)
        n_longer = len(ended.ordered) - first_longer
        if not n_longer:
            return min(max_length, n_rows + n_rows // 2)
        share = ended.ordered[first_longer + math.ceil(_COVERAGE * n_longer) - 1]
        return min(max_length, max(n_rows, math.ceil(share * max_length)))
