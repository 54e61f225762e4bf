"""How many pages the admitted sessions will need at most. Plain integers."""

import math
from collections.abc import Iterable
from typing import NamedTuple

_PACE = 1.1
"""How many times as fast as one session that decodes another may grow."""


class Growth(NamedTuple):
    """The pages that a session holds now, and those that it is expected to hold before it ends.

    `decodes` is false for a session that still runs its prompt: it may grow to its end at once, and stay for long.
    """

    now: int
    end: int
    decodes: bool


def peak_pages(growths: Iterable[Growth]) -> int:
    """The most pages that the sessions need at one time, if all that decode grow at about the same pace.

    Each gets a row per step, so those with the least left to grow are the first to end and to free their pages.
    """
    prompts = 0
    by_growth_left = []
    for now, end, decodes in growths:
        if decodes:
            by_growth_left.append((end - now, now))
        else:
            prompts += end
    by_growth_left.sort(reverse=True)
    peak = held = at_their_ends = 0
    for n_alive, (growth_left, now) in enumerate(by_growth_left, 1):
        held += now
        at_their_ends += now + growth_left
        # when this session ends, the others that are alive have each grown by as much as it had left, and some by more
        grown = math.ceil(growth_left * _PACE) + 1
        peak = max(peak, min(at_their_ends, held + n_alive * grown))
    return prompts + peak
