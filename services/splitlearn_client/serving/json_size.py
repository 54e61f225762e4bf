"""Counts the values of a JSON text before it is parsed.

Python objects take far more memory than their JSON, and a validator makes an error for each invalid one: 16 MiB of
`[],` took 7 GB, and blocked the service for 40 s.
"""

import re

MOST_VALUES = 50_000
"""Commas and opening brackets outside lists of token ids."""
MOST_IDS = 2**20
"""Commas in lists of token ids: more tokens than any model takes, and a quarter of a second of the event loop."""
# the most inputs per request
_LISTS = 2048

# Possessive quantifiers, so that the search never backtracks. Alternatives: a prompt or an input of ids or of lists of
# ids; any string or key; a character to count.
_TOKEN = re.compile(
    rb'"(?:prompt|input)"\s*+:\s*+(\[(?:[\s,]*+\[[\s\d,]*+\]){0,%d}+[\s\d,]*+)|"(?:[^"\\]++|\\.)*+"?|([\[{,])' % _LISTS,
    re.DOTALL,
)


def has_too_many_values(text: bytes) -> bool:
    """Whether a text has more than MOST_VALUES or MOST_IDS. Invalid JSON is counted as far as it resembles JSON."""
    # an upper bound, which is nearly always low enough
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
