"""Prompts of equal length, cut out of texts.

Pure.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from splitlearn.errors import BadRows


def cut_prompts(texts: Iterable[Sequence[int]], count: int, length: int) -> list[list[int]]:
    """At most `count` prompts of at most `length` tokens, evenly over the texts, which are put one behind the other.

    Only a text of fewer tokens gives a shorter one.

    Args:
        texts: token ids.

    Raises:
        BadRows: there are none.
    """
    ids = list(chain.from_iterable(texts))
    if not ids:
        raise BadRows("the text has no tokens; give another one")
    starts = range(0, max(1, len(ids) - length + 1), length)
    chosen = [starts[i * len(starts) // count] for i in range(count)] if len(starts) > count else starts
    return [ids[start : start + length] for start in chosen]
