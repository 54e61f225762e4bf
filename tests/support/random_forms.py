"""Forms that an answer has to follow, drawn at random: regular expressions, choices and schemas. Pure."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

Json = dict[str, Any]

_REGEXES: Final = (
    "([a-f]{2}[0-9]){1,6}",
    "(the |a |of ){2,20}",
    "[A-Z][a-z]+( [a-z]+){0,9}\\.",
    "-?[0-9]{1,12}(\\.[0-9]{1,9})?",
    "(yes|no|maybe)(, (yes|no|maybe)){0,8}",
)
_WORDS: Final = ("yes", "no", "Return the sum.", "Return the sum of all.", "a list", "a list of lists of lists", "é")
_NAMES: Final = ("name", "count", "is_done", "tags")


def random_form(dice: Random) -> Json:
    """One form, as `structured_outputs` or `response_format` has it."""
    return dice.choice(_FORMS)(dice)


def _regex(dice: Random) -> Json:
    return {"structured_outputs": {"regex": dice.choice(_REGEXES)}}


def _choice(dice: Random) -> Json:
    return {"structured_outputs": {"choice": dice.sample(_WORDS, dice.randint(1, 4))}}


def _schema(dice: Random) -> Json:
    schema = _object(dice, 1)
    named = {"type": "json_schema", "json_schema": {"name": "drawn", "schema": schema}}
    return dice.choice(({"structured_outputs": {"json": schema}}, {"response_format": named}))


def _any_object(dice: Random) -> Json:
    forms: Sequence[Json] = (
        {"structured_outputs": {"json_object": True}},
        {"response_format": {"type": "json_object"}},
    )
    return dice.choice(forms)


def _object(dice: Random, depth: int) -> Json:
    names = dice.sample(_NAMES, dice.randint(1, 3))
    members = {name: _value(dice, depth) for name in names}
    return {"type": "object", "properties": members, "required": names, "additionalProperties": False}


def _value(dice: Random, depth: int) -> Json:
    values: list[Json] = [
        {"type": "string", "maxLength": dice.randint(1, 20)},
        {"type": "integer"},
        {"type": "boolean"},
        {"enum": ["left", "right", None]},
    ]
    if depth:
        items = _value(dice, depth - 1)
        values += [{"type": "array", "items": items, "maxItems": dice.randint(1, 5)}, _object(dice, depth - 1)]
    return dice.choice(values)


_FORMS: Final[Sequence[Callable[[Random], Json]]] = (_regex, _regex, _choice, _schema, _schema, _any_object)
