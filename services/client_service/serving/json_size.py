"""How many values a JSON text holds, known before anything is made of them.

An object in memory takes far more than its two characters, and a validator has something to say about each: 16 MiB of
`[],` became 7 GB and held up everybody for 40 s.
"""

import re

MOST_VALUES = 100_000
"""Strings, keys, lists and objects; numbers are not counted, because long lists of token ids are what prompts are."""

# possessive, so that nothing is kept for going back
_VALUE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]', re.DOTALL)


def has_too_many_values(text: bytes) -> bool:
    """Whether there are more than MOST_VALUES. Text that is not JSON is counted as far as it looks like it."""
    # an upper bound, and as good as always enough
    if text.count(b'"') // 2 + text.count(b"[") + text.count(b"{") <= MOST_VALUES:
        return False
    return any(number >= MOST_VALUES for number, _ in enumerate(_VALUE.finditer(text)))
