"""Grammars of tool calls: rules in Lark, and the schemas that arguments follow.

They name special tokens, which the process that tries grammars does not have: there, their names stand for them.

Pure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitlearn_client.structured.schema import UnsupportedSchema, rewritten


@dataclass(frozen=True)
class Rule:
    """A rule that is a schema; `place` is where that is in the request."""

    name: str
    place: tuple[str, ...]
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class CallsSource:
    """A grammar in Lark without the rules of its schemas and of its special tokens, and these.

    Attributes:
        tokens: by rule, the id of the special token that it is.
    """

    rules: str
    schemas: tuple[Rule, ...]
    tokens: Mapping[str, int]

    def text(self) -> str:
        """The source of a constraint of the kind "calls"."""
        schemas = [[rule.name, rule.place, rule.schema] for rule in self.schemas]
        return json.dumps({"rules": self.rules, "schemas": schemas, "tokens": self.tokens})


def assembled(source: str) -> tuple[str, str]:
    """The whole grammar for a vocabulary without special tokens, and for the model's.

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
    return (
        "\n".join([*rules, *(f"{name}: {json.dumps(f'<{name}>')}" for name, _ in tokens)]),
        "\n".join([*rules, *(f"{name}: <[{token}]>" for name, token in tokens)]),
    )
