"""How many values a JSON text holds, known before anything is made of them.

An object in memory takes far more than its characters, and a validator has something to say about each that it does not
like: 16 MiB of `[],` became 7 GB and held up everybody for 40 s.
"""

import re

MOST_VALUES = 50_000
"""Commas and opening brackets. Those of a list of token ids are not counted: a prompt may be long."""

# Possessive, so that nothing is kept for going back. In the order of what to look for: a prompt of ids, whatever else
# is a string or a key, and what is counted.
_TOKEN = re.compile(rb'"prompt"\s*+:\s*+\[[\s\d,]*+|"(?:[^"\\]++|\\.)*+"?|([\[{,])', re.DOTALL)


def has_too_many_values(text: bytes) -> bool:
    """Whether there are more than MOST_VALUES. Text that is not JSON is counted as far as it looks like it."""
    # an upper bound, and as good as always enough
    if sum(map(text.count, (b",", b"[", b"{"))) <= MOST_VALUES:
        return False
    count = 0
    for token in _TOKEN.finditer(text):
        count += token.lastindex is not None
        if count > MOST_VALUES:
            return True
    return False
