"""The keywords that speak of one type: the piece that each stands for, and the pieces of what it rules out.

Pure.
"""

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from splitlearn_client.structured.document import Document, Node
from splitlearn_client.structured.ecma import UnsupportedPattern, translated
from splitlearn_client.structured.shapes import (
    ANYTHING,
    NOTHING,
    ArrayPiece,
    Key,
    Layer,
    NumberPiece,
    ObjectPiece,
    Piece,
    StringPiece,
)

# llguidance's own, and those of `emission`
FORMATS: Final = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}
)
# beyond it fp64 has no longer every integer
_LARGEST: Final = 1 << 53
_LARGEST_COUNT: Final = 1 << 31

Pieces = tuple[Piece, ...]
Told = tuple[str, Pieces, Pieces]
"""A type, the pieces of its values that the keyword allows, and of those that it does not. Other types are free."""


def told(document: Document, node: Node, keyword: str) -> Told:
    """What one of `KEYWORDS` says. Raises UnsupportedSchema: its value is not one of its values."""
    return KEYWORDS[keyword](document, node, node.members[keyword])


def number(node: Node, keyword: str, value: Any) -> Fraction:
    """A number of the schema. Raises UnsupportedSchema: it is none, or one that fp64 does not have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise node.refused(keyword, "has to be a number")
    if not -_LARGEST <= value <= _LARGEST:
        raise node.refused(keyword, "is a number that is too large")
    return Fraction(json.dumps(value))


def _count(node: Node, keyword: str, value: Any) -> int:
    found = number(node, keyword, value)
    if found.denominator != 1 or not 0 <= found < _LARGEST_COUNT:
        raise node.refused(keyword, "has to be an integer that is not negative, and below 2^31")
    return int(found)


def key(document: Document, node: Node, schema: Any, *steps: str, holds: bool = True) -> Key:
    """A schema below this one, which holds or does not."""
    below = document.node(schema, node, *steps)
    if isinstance(below.schema, bool) or below.schema == {}:
        return ANYTHING if (below.schema is not False) is holds else NOTHING
    return frozenset({(holds, below)})


def _bound(keyword: str, *, is_low: bool, excluded: bool) -> Callable[[Document, Node, Any], Told]:
    def tell(_: Document, node: Node, value: Any) -> Told:
        found = number(node, keyword, value)
        low, high = NumberPiece(low=(found, excluded)), NumberPiece(high=(found, excluded))
        under, over = NumberPiece(high=(found, not excluded)), NumberPiece(low=(found, not excluded))
        return ("number", (low,), (under,)) if is_low else ("number", (high,), (over,))

    return tell


def _multiple_of(_: Document, node: Node, value: Any) -> Told:
    found = number(node, "multipleOf", value)
    if found <= 0:
        raise node.refused("multipleOf", "has to be above 0")
    refused = node.refused("multipleOf", "is not supported where it must not hold")
    return "number", (NumberPiece(multiple=found),), (NumberPiece(refusal=refused),)


def _length(keyword: str, make: Callable[[int, bool], Piece], of: str, *, is_least: bool) -> Any:
    """A least or greatest size. `make(n, True)` is the piece with at least n, `make(n, False)` with at most n."""

    def tell(_: Document, node: Node, value: Any) -> Told:
        n = _count(node, keyword, value)
        if is_least:
            return of, (make(n, True),), (make(n - 1, False),) if n else ()
        return of, (make(n, False),), (make(n + 1, True),)

    return tell


def _characters(n: int, is_least: bool) -> Piece:
    return StringPiece(shortest=n) if is_least else StringPiece(longest=n)


def _items_count(n: int, is_least: bool) -> Piece:
    return ArrayPiece(fewest=n) if is_least else ArrayPiece(most=n)


def _members_count(n: int, is_least: bool) -> Piece:
    return ObjectPiece(fewest=n) if is_least else ObjectPiece(most=n)


def _pattern(_: Document, node: Node, value: Any) -> Told:
    if not isinstance(value, str):
        raise node.refused("pattern", "has to be a string")
    refused = node.refused("pattern", "is not supported where it must not hold")
    return (
        "string",
        (StringPiece(patterns=frozenset({expression(node, "pattern", value)})),),
        (StringPiece(refusal=refused),),
    )


def expression(node: Node, keyword: str, pattern: str) -> str:
    """The pattern in llguidance's words. Raises UnsupportedSchema."""
    try:
        return translated(pattern)
    except UnsupportedPattern as error:
        raise node.refused(keyword, f"has an expression that is not supported: {error}") from error


def _format(_: Document, node: Node, value: Any) -> Told:
    if not isinstance(value, str) or value not in FORMATS:
        raise node.refused("format", f"is supported for {', '.join(sorted(FORMATS))} alone")
    refused = node.refused("format", "is not supported where it must not hold")
    return "string", (StringPiece(formats=frozenset({value})),), (StringPiece(refusal=refused),)


def _prefix_items(document: Document, node: Node, value: Any) -> Told:
    holds = tuple(key(document, node, each, "prefixItems", str(i)) for i, each in enumerate(value))
    fails = [key(document, node, each, "prefixItems", str(i), holds=False) for i, each in enumerate(value)]
    return (
        "array",
        (ArrayPiece(holds, evaluated=len(value)),),
        tuple(ArrayPiece((*[ANYTHING] * i, each), fewest=i + 1) for i, each in enumerate(fails)),
    )


def _items(document: Document, node: Node, value: Any) -> Told:
    if isinstance(value, list):
        raise node.refused("items", "has to be a schema; a list of them is prefixItems")
    first = len(node.members.get("prefixItems", ()))
    rest, fails = key(document, node, value, "items"), key(document, node, value, "items", holds=False)
    no = {ANYTHING: (ArrayPiece(fewest=first + 1),), NOTHING: ()}
    refused = (ArrayPiece(refusal=node.refused("items", "is not supported where it must not hold")),)
    return "array", (ArrayPiece((ANYTHING,) * first, rest, evaluated=None),), no.get(fails, refused)


def _contains(document: Document, node: Node, value: Any) -> Told:
    holds = key(document, node, value, "contains")
    fewest = _count(node, "minContains", node.members.get("minContains", 1))
    most = _count(node, "maxContains", node.members["maxContains"]) if "maxContains" in node.members else None
    if holds == ANYTHING:
        no = [ArrayPiece(most=fewest - 1)] if fewest else []
        no += [] if most is None else [ArrayPiece(fewest=most + 1)]
        yes = (ArrayPiece(fewest=fewest, most=most, evaluated=None),) if most is None or fewest <= most else ()
        return "array", yes, tuple(no)
    if holds == NOTHING:
        return ("array", (), (ArrayPiece(),)) if fewest else ("array", (ArrayPiece(),), ())
    # no items, at least: only the arrays without any are told apart
    if fewest == 0 and most is None:
        return "array", (ArrayPiece(refusal=_annotation(node)),), ()
    refused = (ArrayPiece(refusal=node.refused("contains")),)
    fails = key(document, node, value, "contains", holds=False)
    return "array", refused, (ArrayPiece(rest=fails),) if (fewest, most) == (1, None) else refused


def _annotation(node: Node) -> Any:
    return node.refused("contains") if "unevaluatedItems" in node.members else None


def _unique_items(_: Document, node: Node, value: Any) -> Told:
    if value is False:
        return "array", (ArrayPiece(),), ()
    refused = ArrayPiece(fewest=2, refusal=node.refused("uniqueItems"))
    return "array", (ArrayPiece(most=1), refused), (refused,)


def _properties(document: Document, node: Node, value: Any) -> Told:
    holds = {name: key(document, node, each, "properties", name) for name, each in value.items()}
    fails = {name: key(document, node, each, "properties", name, holds=False) for name, each in value.items()}
    yes = ObjectPiece((Layer(holds),), evaluated=(frozenset(holds), frozenset()))
    no = [ObjectPiece((Layer({name: each}),), (name,)) for name, each in fails.items() if each != NOTHING]
    return "object", (yes,), tuple(no)


def _pattern_properties(document: Document, node: Node, value: Any) -> Told:
    if "additionalProperties" in node.members:
        # both are one layer
        return "object", (ObjectPiece(),), (ObjectPiece(refusal=node.refused("patternProperties")),)
    patterns = _patterns(document, node, value)
    yes = ObjectPiece((Layer({}, patterns),), evaluated=(frozenset(), frozenset(patterns)))
    refused = node.refused("patternProperties", "is not supported where it must not hold")
    return "object", (yes,), (ObjectPiece(refusal=refused),)


def _patterns(document: Document, node: Node, value: Any) -> dict[str, Key]:
    where = "patternProperties"
    return {expression(node, where, name): key(document, node, each, where, name) for name, each in value.items()}


def _additional_properties(document: Document, node: Node, value: Any) -> Told:
    names = dict.fromkeys(node.members.get("properties", ()), ANYTHING)
    patterns = _patterns(document, node, node.members.get("patternProperties", {}))
    rest = key(document, node, value, "additionalProperties")
    yes = ObjectPiece((Layer(names, patterns, rest),), evaluated=None)
    if rest == ANYTHING:
        return "object", (yes,), ()
    if rest == NOTHING and not names and not patterns:
        return "object", (yes,), (ObjectPiece(fewest=1),)
    refused = node.refused("additionalProperties", "is not supported where it must not hold")
    return "object", (yes,), (ObjectPiece(refusal=refused),)


def _required(_: Document, node: Node, value: Any) -> Told:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise node.refused("required", "has to be a list of names")
    names = tuple(dict.fromkeys(value))
    return "object", (ObjectPiece(required=names),), tuple(ObjectPiece((Layer({name: NOTHING}),)) for name in names)


def _property_names(document: Document, node: Node, value: Any) -> Told:
    holds = key(document, node, value, "propertyNames")
    if holds == NOTHING:
        return "object", (ObjectPiece(most=0),), (ObjectPiece(fewest=1),)
    refused = node.refused("propertyNames", "is not supported where it must not hold")
    return "object", (ObjectPiece(names=holds),), () if holds == ANYTHING else (ObjectPiece(refusal=refused),)


KEYWORDS: Final[Mapping[str, Callable[[Document, Node, Any], Told]]] = {
    "minimum": _bound("minimum", is_low=True, excluded=False),
    "exclusiveMinimum": _bound("exclusiveMinimum", is_low=True, excluded=True),
    "maximum": _bound("maximum", is_low=False, excluded=False),
    "exclusiveMaximum": _bound("exclusiveMaximum", is_low=False, excluded=True),
    "multipleOf": _multiple_of,
    "minLength": _length("minLength", _characters, "string", is_least=True),
    "maxLength": _length("maxLength", _characters, "string", is_least=False),
    "pattern": _pattern,
    "format": _format,
    "prefixItems": _prefix_items,
    "items": _items,
    "minItems": _length("minItems", _items_count, "array", is_least=True),
    "maxItems": _length("maxItems", _items_count, "array", is_least=False),
    "contains": _contains,
    "uniqueItems": _unique_items,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "required": _required,
    "propertyNames": _property_names,
    "minProperties": _length("minProperties", _members_count, "object", is_least=True),
    "maxProperties": _length("maxProperties", _members_count, "object", is_least=False),
}
