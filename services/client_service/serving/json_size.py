"""How many values a JSON text holds, known before anything is made of them.

An object in memory takes far more than its characters, and a validator has something to say about each that it does not
like: 16 MiB of `[],` became 7 GB and held up everybody for 40 s.
"""

import re

MOST_VALUES = 50_000
"""Commas and opening brackets. Those of lists of token ids are not counted among them: a prompt may be long."""
MOST_IDS = 2**20
"""Commas within such lists: more tokens than any model takes, and a quarter of a second for the event loop."""
# as many as the API takes
_LISTS = 128

# Possessive, so that nothing is kept for going back. In the order of what to look for: a prompt of ids or of lists of
# ids, whatever else is a string or a key, and what is counted.
_TOKEN = re.compile(
    rb'"prompt"\s*+:\s*+(\[(?:[\s,]*+\[[\s\d,]*+\]){0,%d}+[\s\d,]*+)|"(?:[^"\\]++|\\.)*+"?|([\[{,])' % _LISTS, re.DOTALL
)


def has_too_many_values(text: bytes) -> bool:
    """Whether there are more than MOST_VALUES or MOST_IDS. Text that is not JSON is counted as far as it looks so."""
    # an upper bound, and as good as always enough
    if sum(map(text.count, (b",", b"[", b"{"))) <= MOST_VALUES:
        return False
    values = ids = 0
    for token in _TOKEN.finditer(text):
        if token[1] is not None:
            ids += token[1].count(b",")
        values += token[2] is not None
        if values > MOST_VALUES or ids > MOST_IDS:
            return True
    return False
