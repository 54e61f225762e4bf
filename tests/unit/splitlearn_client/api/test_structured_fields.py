import json
from typing import Any

import pytest
from pydantic import ValidationError

from splitlearn_client.api.schema import ChatFields, CompletionFields
from splitlearn_client.errors import BadRequest
from splitlearn_client.structured.constraint import LONGEST_SOURCE, Constraint

SCHEMA = {"type": "object", "properties": {"a": {"enum": [None, 1]}}}


def constraint(**fields: Any) -> Constraint | None:
    found = CompletionFields.model_validate({"model": "tiny", "prompt": "hi", **fields}).constraint()
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
    assert ChatFields.model_validate(chat).constraint() == found
    return found


@pytest.mark.parametrize(
    ("fields", "kind", "source", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": SCHEMA, "strict": False},
                }
            },
            "json_schema",
            SCHEMA,
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA, "structured_outputs.json"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema", SCHEMA, "structured_outputs.json"),
        (
            {"structured_outputs": {"json_object": True}},
            "json_schema",
            {"type": "object"},
            "structured_outputs.json_object",
        ),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ["a", "b"], "structured_outputs.choice"),
        ({"structured_outputs": {"regex": '"a"'}}, "regex", "a", "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": '"a"', "json": None}}, "grammar", "a", "structured_outputs.grammar"),
    ],
)
def test_each_field_says_what_the_answer_follows(fields: dict[str, Any], kind: str, source: Any, param: str) -> None:
    found = constraint(**fields)
    assert found is not None
    assert (found.kind, json.loads(found.source), found.param) == (kind, source, param)


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"structured_outputs": None}])
def test_without_one_nothing_is_followed(fields: dict[str, Any]) -> None:
    assert constraint(**fields) is None


def test_an_unknown_member_is_named_with_those_that_are_known() -> None:
    with pytest.raises(
        ValidationError,
        match="'regexp' is not supported here; leave it out and send exactly one of json, regex, choice",
    ):
        constraint(structured_outputs={"regexp": "a"})
    # null is absent, and neutral values of vLLM's are taken
    assert constraint(structured_outputs={"regex": "a", "regexp": None, "disable_fallback": True})


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        {"response_format": {"type": "json_object", "json_schema": {"name": "a", "schema": {}}}},
        {"response_format": {"type": "text", "json_schema": {"name": "a", "schema": {}}}},
        {"response_format": {"type": "text", "schema": {}}},
        {"structured_outputs": {"json": {}, "regex": "a"}},
        {"structured_outputs": {"json_object": False}},
        {"structured_outputs": {"regex": "a", "regexp": "a"}},
        {"structured_outputs": ["regex"]},
        {"structured_outputs": {"choice": ["a"] * 1025}},
        {"structured_outputs": {"choice": ["a" * 4097]}},
        {"structured_outputs": {"regex": "a" * (LONGEST_SOURCE + 1)}},
        {"structured_outputs": {"regex": ""}},
    ],
)
def test_what_says_nothing_or_too_much_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        constraint(**fields)


@pytest.mark.parametrize(
    "value", [{"json": {"const": "a" * LONGEST_SOURCE}}, {"json": "[" * LONGEST_SOURCE}, {"json": '{"a":1,"a":2}'}]
)
def test_a_schema_that_is_long_or_no_json_is_a_bad_request(value: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        constraint(structured_outputs=value)
    assert refused.value.param == "structured_outputs.json"
