"""Counts the values of a JSON text before it is parsed.

Python objects take far more memory than their JSON, and a validator makes an error for each invalid one: 16 MiB of
`[],` took 7 GB, and blocked the service for 40 s.
"""

import re
from dataclasses import dataclass
from typing import Final

from splitlearn_client.api.prompt_fields import MOST_INPUT_TOKENS, MOST_INPUTS, MOST_PROMPTS

MOST_VALUES: Final = 50_000
"""Commas and opening brackets outside lists of token ids. The largest schemas have 20,000 objects."""
# of a prompt's tokens, for models with a longer context or without one
_MOST_IDS: Final = 2**20

MOST_OF_INPUTS: Final = MOST_INPUT_TOKENS + MOST_INPUTS
"""More than can be embedded: what is little more is refused by its field's name."""

# Possessive quantifiers, so that the search never backtracks. Alternatives: a prompt or an input of ids or of lists of
# ids; any string or key; a character to count.
_IDS: Final = rb"\[(?:[\s,]*+\[[\s\d,]*+\]){0,%d}+[\s\d,]*+" % MOST_INPUTS
_TOKEN = re.compile(rb'"(prompt|input)"\s*+:\s*+(%b)|"(?:[^"\\]++|\\.)*+"?|([\[{,])' % _IDS, re.DOTALL)


@dataclass(frozen=True)
class MostIds:
    """Token ids that requests can use: of all prompts together, and of all inputs for embeddings."""

    prompt: int
    input: int = MOST_OF_INPUTS

    @classmethod
    def of(cls, context: int | None) -> "MostIds":
        """For a model with this context in tokens; None if it has no limit, or none is known."""
        return cls(_MOST_IDS if context is None else min(_MOST_IDS, MOST_PROMPTS * context))


def excess(text: bytes, most: MostIds) -> str | None:
    """What a text has too much of, and how much it may have; None if that is nothing.

    Invalid JSON is counted as far as it resembles JSON.
    """
    # an upper bound, which is nearly always low enough
    if sum(map(text.count, (b",", b"[", b"{"))) <= min(MOST_VALUES, most.prompt, most.input):
        return None
    values, ids = 0, {b"prompt": 0, b"input": 0}
    for token in _TOKEN.finditer(text):
        if token[1] is not None:
            ids[token[1]] += token[2].count(b",")
        values += token[3] is not None
        if values > MOST_VALUES:
            return f"{MOST_VALUES} values"
        if ids[b"prompt"] > most.prompt:
            return f"{most.prompt} token ids in its prompts"
        if ids[b"input"] > most.input:
            return f"{most.input} token ids in its inputs"
    return None
