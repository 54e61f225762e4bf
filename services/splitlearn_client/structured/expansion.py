"""Takes schemas apart: a schema, or what it rules out, becomes pieces of which a value follows any.

A conjunction of schemas multiplies pieces, and a disjunction adds them. What is ruled out has them exchanged (De
Morgan). `if`, `oneOf` and the dependent keywords are written as `anyOf`, `allOf` and `not` first.

Pure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Final

from splitlearn_client.structured.document import Document, Node, UnsupportedSchema
from splitlearn_client.structured.keywords import KEYWORDS, key, number, told
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
    Shape,
    StringPiece,
)

# of pieces, each as often as it is met, and as large as it is
MOST_WORK: Final = 300_000
MOST_DEPTH: Final = 60
# all their combinations are tried where it matters which of them hold
_MOST_SEEN: Final = 6
# in an answer a text has one spelling: see `emission`
_UNSPELLED: Final = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")
_ALL: Final[Shape] = {name: (piece,) for name, piece in FREE.items()}
_NONE: Final[Shape] = dict.fromkeys(FREE, ())
_UNEVALUATED: Final = {"unevaluatedProperties": "object", "unevaluatedItems": "array"}
_REFUSED: Final = ("$recursiveRef", "additionalItems", "dependencies", "x-guidance")


class Expansion:
    """The shapes of one document's schemas; `MOST_WORK` bounds the work for all of them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._work = 0
        self._shapes: dict[Key, Shape | None] = {}
        """None while a key is taken apart."""
        self._alive: dict[Key, bool] = {}
        self._open: list[tuple[bool, Node]] = []

    def shape(self, wanted: Key) -> Shape:
        """The values that follow all these schemas. Raises UnsupportedSchema."""
        known = self._shapes.get(wanted)
        if known is None:
            self._shapes[wanted] = None
            # below another value, where a schema may come again
            above, self._open = self._open, []
            known = self._shapes[wanted] = self._all(
                self._one(node, holds, seen=False) for holds, node in _ordered(wanted)
            )
            self._open = above
        return known

    def is_alive(self, wanted: Key) -> bool:
        """Whether a value may follow them all. One that refers to itself is taken to be."""
        if wanted not in self._alive:
            if wanted in self._shapes and self._shapes[wanted] is None:
                return True
            self._alive[wanted] = True
            self._alive[wanted] = self._has_values(self.shape(wanted))
        return self._alive[wanted]

    def is_possible(self, piece: Piece) -> bool:
        """Whether a value may follow it."""
        if isinstance(piece, ArrayPiece):
            return all(self.is_alive(piece.item(i)) for i in range(min(piece.fewest, len(piece.prefix) + 1)))
        if isinstance(piece, ObjectPiece):
            return all(self.is_alive(piece.member(name)) for name in piece.required)
        return True

    def _has_values(self, shape: Shape) -> bool:
        return any(self.is_possible(piece) for pieces in shape.values() for piece in pieces)

    def _one(self, node: Node, holds: bool, *, seen: bool) -> Shape:
        """The shape of a schema that holds, or does not. With `seen` its pieces say which members it speaks of."""
        if isinstance(node.schema, bool):
            return _ALL if node.schema is holds else _NONE
        if (holds, node) in self._open:
            raise node.refused("$ref", "leads back to where it is")
        if len(self._open) == MOST_DEPTH:
            raise UnsupportedSchema("the schema is too deep", node.path)
        self._open.append((holds, node))
        try:
            return self._parts(node, node.schema, holds, seen=seen)
        finally:
            self._open.pop()

    def _parts(self, node: Node, schema: Mapping[str, Any], holds: bool, *, seen: bool) -> Shape:
        for keyword in _REFUSED:
            if keyword in schema:
                raise node.refused(keyword)
        unevaluated = [each for each in _UNEVALUATED if schema.get(each, True) not in (True, {})]
        if unevaluated and not holds:
            raise node.refused(unevaluated[0], "is not supported where it must not hold")
        seen = seen or bool(unevaluated)
        shapes = [self._keyword(node, schema, keyword, holds, seen=seen) for keyword in schema]
        told_ones = [shape for shape in shapes if shape is not None]
        if not holds:
            return self._any(told_ones)
        whole = self._all(told_ones)
        for keyword, of in _UNEVALUATED.items():
            if keyword in schema:
                others = key(self._document, node, schema[keyword], keyword)
                closed = (_closed(piece, others) for piece in whole[of])
                whole = {**whole, of: tuple(piece for piece in closed if piece is not None)}
        return whole

    def _keyword(self, node: Node, schema: Mapping[str, Any], keyword: str, holds: bool, *, seen: bool) -> Shape | None:
        """What one keyword says; None if it says nothing."""
        value = schema[keyword]
        if keyword in KEYWORDS:
            of, yes, no = told(self._document, node, keyword)
            return {**_ALL, of: yes} if holds else {**_NONE, of: no}
        if keyword == "type":
            return _types(node, value, holds)
        if keyword in ("const", "enum"):
            return self._values(node, keyword, [value] if keyword == "const" else value, holds)
        if keyword in ("$ref", "$dynamicRef"):
            found = self._document.target(node, "$ref") if keyword == "$ref" else self._document.dynamic_target(node)
            return self._one(found, holds, seen=seen)
        if keyword == "not":
            return _unseen(self._one(self._document.node(value, node, keyword), not holds, seen=False))
        if keyword in ("allOf", "anyOf", "oneOf"):
            nodes = [self._document.node(each, node, keyword, str(i)) for i, each in enumerate(value)]
            if not nodes:
                raise node.refused(keyword, "has to have a schema")
            if keyword == "oneOf":
                return self._one_of(nodes, holds, seen=seen)
            return self._combined(nodes, holds, is_all=keyword == "allOf", seen=seen)
        if keyword == "if":
            return self._if(node, schema, holds, seen=seen)
        if keyword in ("dependentRequired", "dependentSchemas"):
            return self._dependent(node, keyword, value, holds, seen=seen)
        return None

    def _combined(self, nodes: Sequence[Node], holds: bool, *, is_all: bool, seen: bool) -> Shape:
        if is_all is holds:
            return self._all(self._one(each, holds, seen=seen) for each in nodes)
        shapes = [self._one(each, holds, seen=seen) for each in nodes]
        if not (seen and holds):
            return self._any(shapes)
        if len(nodes) > _MOST_SEEN:
            raise nodes[0].refused("unevaluatedProperties", f"is not supported beside more than {_MOST_SEEN} schemas")
        # where several hold, the members that each of them speaks of count
        sets = (each for size in range(1, len(shapes) + 1) for each in combinations(shapes, size))
        return self._any((self._all(each) for each in sets), seen=True)

    def _one_of(self, nodes: Sequence[Node], holds: bool, *, seen: bool) -> Shape:
        yes = [self._one(each, True, seen=seen) for each in nodes]
        both = {pair: self._all(yes[i] for i in pair) for pair in combinations(range(len(yes)), 2)}
        both = {pair: shape for pair, shape in both.items() if self._has_values(shape)}
        overlapping = {i for pair in both for i in pair}
        no = {i: _unseen(self._one(nodes[i], False, seen=False)) for i in overlapping}
        if not holds:
            others = (_unseen(self._one(each, False, seen=False)) for each in nodes)
            return self._any([self._all(others), *both.values()])
        # most schemas rule each other out, and then nothing has to be ruled out here
        alone = (
            self._all([each, *(no[j] for j in overlapping if tuple(sorted((i, j))) in both)])
            for i, each in enumerate(yes)
        )
        return self._any(alone, seen=seen)

    def _if(self, node: Node, schema: Mapping[str, Any], holds: bool, *, seen: bool) -> Shape | None:
        condition = self._document.node(schema["if"], node, "if")
        if "then" not in schema and "else" not in schema:
            # it allows everything, and speaks of members
            return self._any([self._one(condition, True, seen=True), _ALL], seen=True) if seen and holds else None
        branches = [self._document.node(schema.get(each, True), node, each) for each in ("then", "else")]
        then, otherwise = (self._one(each, holds, seen=seen) for each in branches)
        yes, no = self._one(condition, True, seen=seen and holds), _unseen(self._one(condition, False, seen=False))
        return self._any([self._all([yes, then]), self._all([no, otherwise])], seen=seen)

    def _dependent(self, node: Node, keyword: str, value: Any, holds: bool, *, seen: bool) -> Shape:
        if not isinstance(value, Mapping):
            raise node.refused(keyword, "has to be an object")
        shapes = []
        for name, wanted in value.items():
            there: Shape = {**_NONE, "object": (ObjectPiece(required=(name,)),)}
            absent: Shape = {**_ALL, "object": (ObjectPiece((Layer({name: NOTHING}),)),)}
            if keyword == "dependentSchemas":
                below = self._one(self._document.node(wanted, node, keyword, name), holds, seen=seen)
            else:
                below = self._one(self._document.node({"required": wanted}, node, keyword, name), holds, seen=False)
            both = self._all([there, below])
            shapes.append(self._any([absent, both], seen=seen) if holds else both)
        return self._all(shapes) if holds else self._any(shapes)

    def _values(self, node: Node, keyword: str, values: Any, holds: bool) -> Shape:
        if not isinstance(values, list):
            raise node.refused(keyword, "has to be a list")
        shapes = [self._value(node, keyword, each, holds) for each in values]
        return self._any(shapes) if holds else self._all(shapes)

    def _value(self, node: Node, keyword: str, value: Any, holds: bool) -> Shape:
        yes: Piece
        no: list[Piece] = []
        if value is None:
            of, yes = "null", Piece()
        elif isinstance(value, bool):
            of, yes, no = "boolean", BooleanPiece(frozenset({value})), [BooleanPiece(frozenset({not value}))]
        elif isinstance(value, int | float):
            point = number(node, keyword, value)
            of, yes = "number", NumberPiece((point, False), (point, False))
            no = [NumberPiece(high=(point, True)), NumberPiece(low=(point, True))]
        elif isinstance(value, str):
            if _UNSPELLED.search(value):
                raise node.refused(keyword, "has a control character for which JSON has no short name")
            of, yes, no = "string", StringPiece(text=value), [StringPiece(others=frozenset({value}))]
        else:
            return self._one(self._document.node(_exactly(value), node, keyword), holds, seen=False)
        return {**_NONE, of: (yes,)} if holds else {**_ALL, of: tuple(no)}

    def _all(self, shapes: Iterable[Shape]) -> Shape:
        whole: Shape = _ALL
        for each in shapes:
            if whole is _ALL:
                whole = each
                continue
            made: dict[str, tuple[Piece, ...]] = {}
            for of in FREE:
                mine, theirs = whole[of], each[of]
                self._count(len(theirs) * sum(a.size for a in mine) + len(mine) * sum(b.size for b in theirs))
                met = (first.met(second) for first in mine for second in theirs)
                made[of] = tuple(piece for piece in met if piece is not None)
            whole = made
        return whole

    def _any(self, shapes: Iterable[Shape], *, seen: bool = False) -> Shape:
        """What any of them allows. With `seen` all pieces are kept, as they speak of different members."""
        made: dict[str, list[Piece]] = {of: [] for of in FREE}
        for shape in shapes:
            for of, pieces in shape.items():
                self._count(len(pieces))
                made[of] += pieces
        if seen:
            return {of: tuple(pieces) for of, pieces in made.items()}
        # a piece that is free makes the others of its type superfluous
        return {of: (FREE[of],) if FREE[of] in pieces else tuple(pieces) for of, pieces in made.items()}

    def _count(self, work: int) -> None:
        self._work += work
        if self._work > MOST_WORK:
            raise UnsupportedSchema("the schema has too many combinations of its parts")


def _ordered(wanted: Key) -> list[tuple[bool, Node]]:
    return sorted(wanted, key=lambda each: (each[1].path, each[0]))


def _types(node: Node, value: Any, holds: bool) -> Shape:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(each in (*FREE, "integer") for each in names):
        raise node.refused("type", f"has to be one of {', '.join((*FREE, 'integer'))}, or a list of them")
    shape = {of: (piece,) if (of in names) is holds else () for of, piece in FREE.items()}
    if "integer" in names and "number" not in names:
        shape["number"] = (NumberPiece(integer=holds),)
    return shape


def _exactly(value: Any) -> dict[str, Any]:
    """The schema of one array or object."""
    if isinstance(value, list):
        items = [{"const": each} for each in value]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    members = {name: {"const": each} for name, each in value.items()}
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _unseen(shape: Shape) -> Shape:
    """The shape of what must not hold: it speaks of no members and no items."""
    arrays = (replace(each, evaluated=0) for each in shape["array"] if isinstance(each, ArrayPiece))
    nothing = (frozenset[str](), frozenset[str]())
    objects = (replace(each, evaluated=nothing) for each in shape["object"] if isinstance(each, ObjectPiece))
    return {**shape, "array": tuple(arrays), "object": tuple(objects)}


def _closed(piece: Piece, others: Key) -> Piece | None:
    """The piece, with a schema for the members or items that none of its own schemas speaks of."""
    if isinstance(piece, ArrayPiece) and piece.evaluated is not None:
        return replace(piece, evaluated=None).met(ArrayPiece((ANYTHING,) * piece.evaluated, others))
    if isinstance(piece, ObjectPiece) and piece.evaluated is not None:
        names, patterns = (dict.fromkeys(sorted(each), ANYTHING) for each in piece.evaluated)
        return replace(piece, evaluated=None).with_layer(Layer(names, patterns, others))
    return piece
