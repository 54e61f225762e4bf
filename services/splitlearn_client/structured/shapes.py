"""The pieces that schemas are taken apart into, each about values of one JSON type, and what two have in common.

A schema below another is a `Key`: schemas that all hold, or, with the sign False, do not. So a piece holds schemas that
nobody has looked into yet, and schemas may refer to each other.

Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Self

from splitlearn_client.structured.document import Node, UnsupportedSchema

Key = frozenset[tuple[bool, Node]]
"""Schemas of which each holds (True) or does not (False)."""

ANYTHING: Key = frozenset()
NOTHING: Key = frozenset({(True, Node(False))})


@dataclass(frozen=True)
class Piece:
    """Base of all pieces, and the piece of null. `refusal` is why it cannot be told to the compiler."""

    refusal: UnsupportedSchema | None = field(default=None, kw_only=True)

    @property
    def size(self) -> int:
        """How much of it there is to go through."""
        return 1

    def met(self, other: Self) -> Self | None:
        """What both allow; None if that is nothing. `other` is of the same type."""
        return replace(self, refusal=self.refusal or other.refusal)


@dataclass(frozen=True)
class BooleanPiece(Piece):
    values: frozenset[bool] = frozenset({False, True})

    def met(self, other: Self) -> Self | None:
        values = self.values & other.values
        return replace(self, values=values, refusal=self.refusal or other.refusal) if values else None


@dataclass(frozen=True)
class NumberPiece(Piece):
    """`integer` None: both. A bound is a value, and whether it is excluded."""

    low: tuple[Fraction, bool] | None = None
    high: tuple[Fraction, bool] | None = None
    integer: bool | None = None
    multiple: Fraction | None = None

    def met(self, other: Self) -> Self | None:
        if None not in (self.integer, other.integer) and self.integer != other.integer:
            return None
        lows = [each for each in (self.low, other.low) if each]
        highs = [each for each in (self.high, other.high) if each]
        made = replace(
            self,
            low=max(lows, default=None),
            high=min(highs, default=None, key=lambda high: (high[0], not high[1])),
            integer=self.integer if other.integer is None else other.integer,
            multiple=_common_multiple(self.multiple, other.multiple),
            refusal=self.refusal or other.refusal,
        )
        return made._settled()

    def _settled(self) -> Self | None:
        if self.low is None or self.high is None:
            return self
        (low, over), (high, under) = self.low, self.high
        if low > high or (low == high and (over or under)):
            return None
        if self.integer and math.ceil(low) + (over and low.denominator == 1) > (
            math.floor(high) - (under and high.denominator == 1)
        ):
            return None
        if low == high:
            is_integer = low.denominator == 1
            if self.integer not in (None, is_integer) or (self.multiple and low % self.multiple):
                return None
            return replace(self, integer=None, multiple=None)
        return self


def _common_multiple(first: Fraction | None, second: Fraction | None) -> Fraction | None:
    if first is None or second is None:
        return first or second
    return Fraction(math.lcm(first.numerator, second.numerator), math.gcd(first.denominator, second.denominator))


@dataclass(frozen=True)
class StringPiece(Piece):
    """`text` is the only one; `others` are those that it is not. Lengths are in characters."""

    shortest: int = 0
    longest: int | None = None
    patterns: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    text: str | None = None
    others: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        return 1 + len(self.others)

    def met(self, other: Self) -> Self | None:
        if self.text is not None and other.text is not None and self.text != other.text:
            return None
        made = replace(
            self,
            shortest=max(self.shortest, other.shortest),
            longest=least(self.longest, other.longest),
            patterns=self.patterns | other.patterns,
            formats=self.formats | other.formats,
            text=self.text if other.text is None else other.text,
            others=self.others | other.others,
            refusal=self.refusal or other.refusal,
        )
        size = made.shortest if made.text is None else len(made.text)
        if size < made.shortest or (made.longest is not None and size > made.longest) or made.text in made.others:
            return None
        return made if made.text is None else replace(made, shortest=0, longest=None, others=frozenset())


@dataclass(frozen=True)
class ArrayPiece(Piece):
    """`evaluated` counts the first items that schemas speak of; None: all."""

    prefix: tuple[Key, ...] = ()
    rest: Key = ANYTHING
    fewest: int = 0
    most: int | None = None
    evaluated: int | None = 0

    @property
    def size(self) -> int:
        return 1 + len(self.prefix)

    def item(self, index: int) -> Key:
        return self.prefix[index] if index < len(self.prefix) else self.rest

    def met(self, other: Self) -> Self | None:
        length = max(len(self.prefix), len(other.prefix))
        most = least(self.most, other.most)
        fewest = max(self.fewest, other.fewest)
        if most is not None and fewest > most:
            return None
        both = None in (self.evaluated, other.evaluated)
        return replace(
            self,
            prefix=tuple(self.item(i) | other.item(i) for i in range(length)),
            rest=self.rest | other.rest,
            fewest=fewest,
            most=most,
            evaluated=None if both else max(self.evaluated or 0, other.evaluated or 0),
            refusal=self.refusal or other.refusal,
        )


@dataclass(frozen=True)
class Layer:
    """Schemas of an object's members: by name, by pattern, and of the rest. A named member also follows its pattern."""

    named: Mapping[str, Key] = field(default_factory=dict)
    patterns: Mapping[str, Key] = field(default_factory=dict)
    rest: Key = ANYTHING

    def member(self, name: str) -> Key:
        return self.named.get(name, self.rest)

    def joined(self, other: "Layer") -> "Layer | None":
        """What both ask for; None if it takes patterns to tell."""
        if self.patterns or other.patterns:
            return None
        names = [*self.named, *(name for name in other.named if name not in self.named)]
        return Layer({name: self.member(name) | other.member(name) for name in names}, {}, self.rest | other.rest)


@dataclass(frozen=True)
class ObjectPiece(Piece):
    """All `layers` hold. `evaluated` are the names and patterns that schemas speak of; None: all members."""

    layers: tuple[Layer, ...] = ()
    required: tuple[str, ...] = ()
    fewest: int = 0
    most: int | None = None
    names: Key = ANYTHING
    evaluated: tuple[frozenset[str], frozenset[str]] | None = (frozenset(), frozenset())

    @property
    def size(self) -> int:
        return 1 + len(self.required) + sum(len(each.named) + len(each.patterns) for each in self.layers)

    def member(self, name: str) -> Key:
        """The schemas of a member, but those of patterns."""
        plain = (each.member(name) for each in self.layers if name in each.named or not each.patterns)
        return frozenset[tuple[bool, Node]]().union(*plain)

    def met(self, other: Self) -> Self | None:
        required = tuple(dict.fromkeys((*self.required, *other.required)))
        most = least(self.most, other.most)
        fewest = max(self.fewest, other.fewest)
        if most is not None and max(fewest, len(required)) > most:
            return None
        mine, theirs = self.evaluated, other.evaluated
        made = replace(
            self,
            required=required,
            fewest=fewest,
            most=most,
            names=self.names | other.names,
            evaluated=None if mine is None or theirs is None else (mine[0] | theirs[0], mine[1] | theirs[1]),
            refusal=self.refusal or other.refusal,
        )
        for layer in other.layers:
            made = made.with_layer(layer)
        return None if any(made.member(name) >= NOTHING for name in required) else made

    def with_layer(self, layer: Layer) -> Self:
        """The piece with one more layer, joined to the last one if that can be."""
        last = self.layers[-1].joined(layer) if self.layers else None
        return replace(self, layers=(*self.layers, layer) if last is None else (*self.layers[:-1], last))


def least(first: int | None, second: int | None) -> int | None:
    """The smaller bound; None is no bound."""
    return min((each for each in (first, second) if each is not None), default=None)


Shape = Mapping[str, tuple[Piece, ...]]
"""For each of the JSON types, pieces of which a value follows any."""

FREE: dict[str, Piece] = {
    "null": Piece(),
    "boolean": BooleanPiece(),
    "number": NumberPiece(),
    "string": StringPiece(),
    "array": ArrayPiece(),
    "object": ObjectPiece(),
}
"""The piece of each type that allows all its values."""
