"""The fields that constrain an answer: OpenAI's `response_format`, and vLLM's `structured_outputs`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from splitlearn_client.api import neutral
from splitlearn_client.api.fields import Fields, refusal
from splitlearn_client.api.json_body import strict_json
from splitlearn_client.errors import BadRequest
from splitlearn_client.structured.constraint import LONGEST_SOURCE, Constraint, Kind

MOST_CHOICES: Final = 1024
LONGEST_CHOICE: Final = 4096
_ANY_OBJECT: Final = {"type": "object"}
_LONGEST_NAME: Final = 64
_TOO_LONG: Final = f"this is longer than {LONGEST_SOURCE} characters"


class JSONSchema(Fields):
    """What OpenAI wraps a schema in. The schema holds whether or not `strict` is set."""

    name: str = Field(min_length=1, max_length=_LONGEST_NAME)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool = False


class ResponseFormat(Fields):
    """OpenAI's `response_format`."""

    # a text alone is neutral; here it is for errors to name, and for what is sent along with it
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema_if_it_needs_one(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            needs = "is required with" if self.json_schema is None else "does not belong to"
            raise refusal(("json_schema",), f"this field {needs} the type {self.type}")
        return self

    def constraint(self) -> Constraint:
        """Raises BadRequest."""
        if self.json_schema is None:
            return _of_json("json_schema", _ANY_OBJECT, "response_format")
        return _of_json("json_schema", self.json_schema.schema_, "response_format.json_schema.schema")


def _source_kind(value: Any) -> str | None:
    return "<object>" if isinstance(value, dict) else "<text>" if isinstance(value, str) else None


_Schema = Annotated[
    Annotated[dict[str, Any], Tag("<object>")] | Annotated[str, Tag("<text>")],
    Discriminator(
        _source_kind, custom_error_type="no_alternative", custom_error_message="expected an object, or its text"
    ),
]


class StructuredOutputs(Fields):
    """vLLM's `structured_outputs`: one of these."""

    neutral = neutral.STRUCTURED_OUTPUTS

    # a schema that is text is parsed first, as in vLLM
    json_: _Schema | None = Field(None, alias="json")
    regex: str | None = Field(None, min_length=1, max_length=LONGEST_SOURCE)
    choice: list[Annotated[str, Field(min_length=1, max_length=LONGEST_CHOICE)]] | None = Field(
        None, min_length=1, max_length=MOST_CHOICES, fail_fast=True
    )
    grammar: str | None = Field(None, min_length=1, max_length=LONGEST_SOURCE)
    json_object: Literal[True] | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_known_members(cls, sent: Any) -> Any:
        """Runs before what all objects check, as it is defined after it."""
        if not isinstance(sent, dict):
            return sent
        known = cls.names() | cls.neutral.keys()
        unknown = next((name for name, value in sent.items() if value is not None and name not in known), None)
        if unknown is not None:
            # the caller chose it; it may be empty or long
            shown = ascii(unknown)[:_LONGEST_NAME]
            raise refusal(
                (unknown,) if unknown else (),
                f"{shown} is not supported here; leave it out and send exactly one of {', '.join(_KINDS)}",
            )
        return sent

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        given = [name for name in _KINDS if getattr(self, _KINDS[name]) is not None]
        if len(given) != 1:
            raise refusal(tuple(given[1:2]), f"send exactly one of {', '.join(_KINDS)}")
        if self.grammar is not None and "%json" in self.grammar:
            raise refusal(("grammar",), "%json is not supported in a grammar; send the schema as json")
        return self

    def constraint(self) -> Constraint:
        """Raises BadRequest."""
        if self.regex is not None:
            return Constraint("regex", self.regex, "structured_outputs.regex")
        if self.grammar is not None:
            return Constraint("grammar", self.grammar, "structured_outputs.grammar")
        if self.choice is not None:
            return _of_json("choice", self.choice, "structured_outputs.choice")
        if self.json_ is None:
            return _of_json("json_schema", _ANY_OBJECT, "structured_outputs.json_object")
        schema = _parsed(self.json_) if isinstance(self.json_, str) else self.json_
        return _of_json("json_schema", schema, "structured_outputs.json")


_KINDS: Final[Mapping[str, str]] = {
    "json": "json_",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
    "json_object": "json_object",
}
"""The names of its alternatives in requests, and here."""


def _parsed(text: str) -> Any:
    param = "structured_outputs.json"
    if len(text) > LONGEST_SOURCE:
        raise BadRequest(_TOO_LONG, param)
    try:
        return strict_json(text.encode())
    except json.JSONDecodeError as error:
        raise BadRequest(f"this text is not JSON: {error.msg}", param) from error


def _of_json(kind: Kind, value: Any, param: str) -> Constraint:
    source = json.dumps(value)
    if len(source) > LONGEST_SOURCE:
        raise BadRequest(_TOO_LONG, param)
    return Constraint(kind, source, param)
