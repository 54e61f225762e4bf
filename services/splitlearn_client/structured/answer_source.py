"""Grammars of answers in a model's own form: rules in Lark, and the schemas and constraints that parts of them follow.

They name special tokens, which the process that tries grammars does not have: there, their names stand for them.

Pure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, NamedTuple

from splitlearn_client.structured.constraint import Constraint, Language
from splitlearn_client.structured.schema import UnsupportedSchema, rewritten

CONSTRAINED: Final = "@constrained"
"""What follows the source's constraint, in its rules."""


@dataclass(frozen=True)
class Rule:
    """A rule that is a schema; `place` is where that is in the request."""

    name: str
    place: tuple[str, ...]
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class AnswerSource:
    """A grammar in Lark without the rules of its schemas and of its special tokens, and these.

    Attributes:
        tokens: by rule, the id of the special token that it is.
        constraint: what a part of the answer has to follow, which the rules call `CONSTRAINED`; None if they do not.
        openers: what the texts that follow the constraint must not begin with.
    """

    rules: str
    schemas: tuple[Rule, ...]
    tokens: Mapping[str, int]
    constraint: Constraint | None = None
    openers: tuple[str, ...] = ()

    def text(self) -> str:
        """The source of a constraint of the kind "answer"."""
        schemas = [[rule.name, rule.place, rule.schema] for rule in self.schemas]
        inner = self.constraint and [self.constraint.kind, self.constraint.source, self.constraint.param]
        parts = {"rules": self.rules, "schemas": schemas, "tokens": self.tokens, "constraint": inner}
        return json.dumps(parts | {"openers": self.openers})


class Assembled(NamedTuple):
    """The whole grammar but for its constraint: for a vocabulary without special tokens, and for the model's."""

    tried: str
    used: str
    constraint: tuple[Language, str, str] | None
    """Kind, source, and place in the request."""
    openers: tuple[str, ...]
    first_line: int
    """Of the rules that are schemas, of which each has one line."""
    places: tuple[tuple[str, ...], ...]
    """Where each schema is in the request."""

    def place_at(self, line: int | None) -> tuple[str, ...]:
        """Where the schema of a line is in the request; of another line, what all schemas are in."""
        if line is not None and 0 <= line - self.first_line < len(self.places):
            return self.places[line - self.first_line]
        alike = takewhile(lambda each: len(set(each)) == 1, zip(*self.places, strict=False))
        return tuple(steps[0] for steps in alike)


def assembled(source: str) -> Assembled:
    """Puts the rules together.

    Raises:
        UnsupportedSchema: with the place in the request.
    """
    parts = json.loads(source)
    rules = [parts["rules"]]
    for name, place, schema in parts["schemas"]:
        try:
            rules.append(f"{name}: %json {json.dumps(rewritten(schema))}")
        except UnsupportedSchema as error:
            raise UnsupportedSchema(str(error), (*place, *error.path)) from error
    tokens = parts["tokens"].items()
    return Assembled(
        "\n".join([*rules, *(f"{name}: {json.dumps(f'<{name}>')}" for name, _ in tokens)]),
        "\n".join([*rules, *(f"{name}: <[{token}]>" for name, token in tokens)]),
        None if parts["constraint"] is None else tuple(parts["constraint"]),
        tuple(parts["openers"]),
        rules[0].count("\n") + 2,
        tuple(tuple(place) for _, place, _ in parts["schemas"]),
    )


def joined(rules: str, constrained: str) -> str:
    """A grammar of llguidance, of rules and of what `CONSTRAINED` stands for: rules too, or a grammar of llguidance."""
    inner = (
        json.loads(constrained)["grammars"] if constrained.lstrip().startswith("{") else [{"lark_grammar": constrained}]
    )
    name = CONSTRAINED.removeprefix("@")
    whole = [{"lark_grammar": rules}, {**inner[0], "name": name}, *inner[1:]]
    # as it is, so that it is as long as its parts
    return json.dumps({"grammars": whole}, ensure_ascii=False)
