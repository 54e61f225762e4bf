"""Which texts follow a schema, by llguidance over a vocabulary of bytes."""

import json
from collections.abc import Iterator
from itertools import islice, permutations, product
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from splitlearn_client.structured.grammar_trial import PARSER_LIMITS, BadGrammar
from splitlearn_client.structured.schema import rewritten

_MOST_SPELLINGS = 500


class _Bytes:
    eos_token_id = 256
    bos_token_id = None
    tokens = [bytes([value]) for value in range(256)] + [b"<end>"]
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])


class Followed:
    """A compiled schema.

    Raises:
        UnsupportedSchema, BadGrammar: it is refused.
    """

    def __init__(self, schema: Any) -> None:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(rewritten(schema)))
        self._beginning = LLMatcher(BYTES, grammar, log_level=0, limits=LLParserLimits(**PARSER_LIMITS))
        if self._beginning.is_error():
            raise BadGrammar(self._beginning.get_error())

    def takes_text(self, text: str) -> bool:
        """Whether the text may be the whole answer."""
        matcher, spelled = self._beginning.deep_copy(), list(text.encode())
        return matcher.try_consume_tokens(spelled) == len(spelled) and matcher.is_accepting()

    def takes(self, value: Any) -> bool:
        """Whether one of the value's texts may be the whole answer: members in any order, with and without spaces,
        numbers as they are and as short as they can be, characters as they are and escaped."""
        return any(map(self.takes_text, spellings(value)))


def spellings(value: Any) -> Iterator[str]:
    """Texts that stand for the value; some hundreds at most."""
    forms: tuple[dict[str, Any], ...] = (
        {"ensure_ascii": False},
        {"ensure_ascii": True},
        {"ensure_ascii": False, "separators": (",", ":")},
    )
    for ordered in islice(_ordered(value), _MOST_SPELLINGS):
        for each in (ordered, _short(ordered)):
            for form in forms:
                yield json.dumps(each, **form)


def _ordered(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from map(list, product(*(list(islice(_ordered(each), _MOST_SPELLINGS)) for each in value)))
    elif isinstance(value, dict):
        for names in permutations(value):
            for values in product(*(list(islice(_ordered(value[name]), _MOST_SPELLINGS)) for name in names)):
                yield dict(zip(names, values, strict=True))
    else:
        yield value


def _short(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, list):
        return [_short(each) for each in value]
    return {name: _short(each) for name, each in value.items()} if isinstance(value, dict) else value
