"""Writes pieces as a schema in the words that llguidance does exactly, and refuses the others.

Pure.
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

from splitlearn_client.structured.document import UnsupportedSchema
from splitlearn_client.structured.ecma import literal
from splitlearn_client.structured.expansion import Expansion
from splitlearn_client.structured.shapes import (
    ANYTHING,
    FREE,
    NOTHING,
    ArrayPiece,
    BooleanPiece,
    Key,
    Layer,
    NumberPiece,
    ObjectPiece,
    Piece,
    StringPiece,
    least,
)

MOST_DEFINITIONS: Final = 5000
# a mask takes as long as this is large
_LARGEST_MULTIPLE: Final = 10_000
_DATE: Final = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME: Final = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
# llguidance knows leap seconds at any time, and February with 29 days in any year
_FORMATS: Final = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}[tT]{_TIME}$"}
_LONGEST_EXCLUDED: Final = 128
_LONGEST_HOSTNAME: Final = 253
_GUIDANCE: Final = {
    # between the parts of an answer: enough for any layout, and no place for a model to get lost in
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}",
    # without u: a text has one spelling, or a name that is taken or ruled out could come in another
    "json_allowed_escapes": 'nrbtf\\"',
}


class Emission:
    """Writes the schemas of one document."""

    def __init__(self, expansion: Expansion) -> None:
        self._expansion = expansion
        self._names: dict[Key, str] = {}
        self._waiting: list[Key] = []

    def whole(self, root: Key) -> dict[str, Any]:
        """The schema of a whole value. Raises UnsupportedSchema."""
        if not self._expansion.is_alive(root):
            raise UnsupportedSchema("no value follows the schema")
        top = self._value(root)
        definitions: dict[str, Any] = {}
        while self._waiting:
            each = self._waiting.pop()
            definitions[self._names[each]] = self._value(each)
        return {"x-guidance": _GUIDANCE, **top, "$defs": definitions}

    def _schema(self, key: Key) -> Any:
        """A schema below another: written out if nothing is below it, else a reference."""
        if key in (ANYTHING, NOTHING) or not self._expansion.is_alive(key):
            return key == ANYTHING
        shape = self._expansion.shape(key)
        if not shape["array"] and not shape["object"]:
            return self._value(key)
        if key not in self._names:
            if len(self._names) == MOST_DEFINITIONS:
                raise UnsupportedSchema("the schema has too many combinations of its parts")
            self._names[key] = f"s{len(self._names)}"
            self._waiting.append(key)
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def _value(self, key: Key) -> dict[str, Any]:
        shape = self._expansion.shape(key)
        if all(shape[of] == (piece,) for of, piece in FREE.items()):
            return {}
        options: list[dict[str, Any]] = []
        texts: list[str] = []
        for of, pieces in shape.items():
            for piece in pieces:
                if not self._expansion.is_possible(piece):
                    continue
                if piece.refusal is not None:
                    raise piece.refusal
                if isinstance(piece, StringPiece) and piece.text is not None and not piece.patterns | piece.formats:
                    texts.append(piece.text)
                else:
                    options.append(self._piece(of, piece))
        if texts:
            options.append({"enum": list(dict.fromkeys(texts))})
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _piece(self, of: str, piece: Piece) -> dict[str, Any]:
        if isinstance(piece, BooleanPiece):
            return {"type": of} if len(piece.values) == 2 else {"enum": sorted(piece.values)}
        if isinstance(piece, NumberPiece):
            return _number(piece)
        if isinstance(piece, StringPiece):
            return _string(piece)
        if isinstance(piece, ArrayPiece):
            return self._array(piece)
        if isinstance(piece, ObjectPiece):
            return self._object(piece)
        return {"type": of}

    def _array(self, piece: ArrayPiece) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "array"}
        if piece.prefix:
            made["prefixItems"] = [self._schema(each) for each in piece.prefix]
        if piece.rest != ANYTHING:
            made["items"] = self._schema(piece.rest)
        return made | _counts(piece.fewest, piece.most, "Items")

    def _object(self, piece: ObjectPiece) -> dict[str, Any]:
        piece = self._with_names(piece)
        fewest = piece.fewest if piece.fewest > len(piece.required) else 0
        if fewest > len(piece.required) + 1:
            # a member can come twice, and counts once
            raise UnsupportedSchema(
                "the schema's keyword 'minProperties' is supported for one more than are required", ("minProperties",)
            )
        layers = [self._layer(each) for each in piece.layers]
        made: dict[str, Any] = {"type": "object", **(layers[0] if layers else {})}
        if piece.required:
            made["required"] = list(piece.required)
        made |= _counts(fewest, piece.most, "Properties")
        return made if len(layers) < 2 else {"allOf": [made, *({"type": "object", **each} for each in layers[1:])]}

    def _layer(self, layer: Layer) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if layer.named:
            made["properties"] = {name: self._schema(each) for name, each in layer.named.items()}
        if layer.patterns:
            made["patternProperties"] = {name: self._schema(each) for name, each in layer.patterns.items()}
        if layer.rest != ANYTHING:
            made["additionalProperties"] = self._schema(layer.rest)
        return made

    def _with_names(self, piece: ObjectPiece) -> ObjectPiece:
        """The same piece, with what names its members may have as a layer."""
        if piece.names == ANYTHING:
            return piece
        pieces = [each for each in self._expansion.shape(piece.names)["string"] if isinstance(each, StringPiece)]
        if FREE["string"] in pieces:
            return replace(piece, names=ANYTHING)
        texts = [each.text for each in pieces if each.text is not None]
        if len(texts) == len(pieces):
            return replace(piece, names=ANYTHING).with_layer(Layer(dict.fromkeys(texts, ANYTHING), {}, NOTHING))
        named = {name for each in piece.layers for name in each.named}.union(piece.required)
        rule = _one_pattern(pieces[0]) if len(pieces) == 1 else None
        if rule is None or named:
            raise UnsupportedSchema(
                "the schema's keyword 'propertyNames' is supported for a list of names, or one pattern beside no named "
                "properties",
                ("propertyNames",),
            )
        return replace(piece, names=ANYTHING).with_layer(Layer({}, {rule: ANYTHING}, NOTHING))


def _counts(fewest: int, most: int | None, of: str) -> dict[str, int]:
    return ({f"min{of}": fewest} if fewest else {}) | ({} if most is None else {f"max{of}": most})


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _number(piece: NumberPiece) -> dict[str, Any]:
    if piece.low is not None and piece.high is not None and piece.low[0] == piece.high[0]:
        return {"const": _plain(piece.low[0])}
    if piece.integer is False:
        raise UnsupportedSchema("the schema's keyword 'type' is not supported where integers are ruled out", ("type",))
    made: dict[str, Any] = {"type": "integer" if piece.integer else "number"}
    for name, bound in (("inimum", piece.low), ("aximum", piece.high)):
        if bound is not None:
            side = "m" + name
            made[f"exclusive{side.capitalize()}" if bound[1] else side] = _plain(bound[0])
    if piece.multiple is not None:
        if max(piece.multiple.numerator, piece.multiple.denominator) > _LARGEST_MULTIPLE:
            raise UnsupportedSchema(
                f"the schema's keyword 'multipleOf' is supported for fractions of numbers up to {_LARGEST_MULTIPLE}",
                ("multipleOf",),
            )
        made["multipleOf"] = _plain(piece.multiple)
    return made


def _string(piece: StringPiece) -> dict[str, Any]:
    rules: list[dict[str, Any]] = [{"pattern": each} for each in sorted(piece.patterns)]
    for name in sorted(piece.formats):
        rules.append({"pattern": _FORMATS[name]} if name in _FORMATS else {"format": name})
    longest = least(piece.longest, _LONGEST_HOSTNAME if "hostname" in piece.formats else None)
    if piece.others:
        rules.append({"pattern": _not_any(piece.others)})
    whole: dict[str, Any] = {"type": "string"} | _counts(piece.shortest, longest, "Length")
    if piece.text is not None:
        whole = {"enum": [piece.text]}
    if len(rules) == 1:
        return whole | rules[0]
    return whole | ({"allOf": [{"type": "string", **each} for each in rules]} if rules else {})


def _one_pattern(piece: StringPiece) -> str | None:
    """One expression for all that the piece says; None if that takes several."""
    sized = piece.shortest > 0 or piece.longest is not None
    if piece.formats or piece.text is not None or len(piece.patterns) + sized + bool(piece.others) != 1:
        return None
    if sized:
        return f"^[\\x00-\\u{{10ffff}}]{{{piece.shortest},{'' if piece.longest is None else piece.longest}}}$"
    return _not_any(piece.others) if piece.others else next(iter(piece.patterns))


def _not_any(texts: frozenset[str]) -> str:
    """An expression for all texts but these. Raises UnsupportedSchema: one is too long."""
    if max(map(len, texts)) > _LONGEST_EXCLUDED:
        raise UnsupportedSchema(f"the schema rules out a text of more than {_LONGEST_EXCLUDED} characters")
    return f"^(?:{_others(sorted(texts))})$"


def _others(texts: list[str]) -> str:
    """All texts but these, which are sorted, and of which each comes once."""
    followed: dict[str, list[str]] = {}
    for text in texts:
        if text:
            followed.setdefault(text[0], []).append(text[1:])
    first = "".join(map(literal, followed))
    options = [f"[^{first}][\\x00-\\u{{10ffff}}]*" if first else "[\\x00-\\u{10ffff}]+"]
    options += [f"{literal(each)}(?:{_others(rest)})" for each, rest in followed.items()]
    return "|".join(options if "" in texts else [*options, ""])
