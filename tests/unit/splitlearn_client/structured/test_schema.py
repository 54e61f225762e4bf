"""Keyword by keyword: values that follow a schema are taken, others are not, and what cannot be followed is refused."""

import json
import time
from typing import Any

import pytest

from splitlearn_client.structured.document import UnsupportedSchema
from splitlearn_client.structured.schema import rewritten
from support.followed import Followed

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
# a schema, values that follow it, and values that do not
FOLLOWED: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "nothing at all": ({}, [None, True, 1.5, "a", [1], {"a": [{}]}], []),
    "type": ({"type": "integer"}, [0, -12, 5.0], [1.5, "1", None, True, [1]]),
    "types": ({"type": ["null", "string"]}, [None, ""], [1, False, []]),
    "const": ({"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}, {}, {"a": [1, None], "b": 1}]),
    "enum": ({"enum": ["a", 1, None, True]}, ["a", 1, None, True], ["b", 2, False, "1"]),
    "minimum": ({"type": "number", "minimum": -1.5}, [-1.5, 0, 10], [-1.6, -20]),
    "exclusiveMaximum": ({"type": "number", "exclusiveMaximum": 3}, [2.9, -5], [3, 3.0, 4]),
    "multipleOf": ({"type": "number", "multipleOf": 0.01}, [0.25, 3, -1.5], [0.005, 1.234]),
    "two multiples": ({"type": "integer", "allOf": [{"multipleOf": 4}, {"multipleOf": 6}]}, [0, 12, -24], [4, 6, 8]),
    "minLength": ({"type": "string", "minLength": 2}, ["ab", "é\U0001f600"], ["", "a", "\U0001f600"]),
    "maxLength": ({"type": "string", "maxLength": 1}, ["", "\U0001f600"], ["ab"]),
    "pattern": ({"type": "string", "pattern": "b+$"}, ["ab", "bb"], ["ba", ""]),
    "pattern that a line ends": ({"type": "string", "pattern": "^.$"}, ["a"], ["\n", "\r", "\u2028", "ab"]),
    "date": ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-13-01", "today"]),
    "uuid": ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    "items": ({"type": "array", "items": {"type": "null"}}, [[], [None, None]], [[1], [None, 1]]),
    "prefixItems": (
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
        [[], [1], [1, "a", "b"]],
        [["a"], [1, 1]],
    ),
    "minItems": ({"type": "array", "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    "uniqueItems that are few": ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [1]], [[1, 1]]),
    "contains anything": ({"type": "array", "contains": True, "minContains": 2}, [[1, 1]], [[], [1]]),
    "properties": (OBJECT, [{}, {"a": 1}, {"a": 1, "b": "x", "c": []}], [{"a": "1"}, {"b": 2}, 5]),
    "required": ({"type": "object", "required": ["a"]}, [{"a": None}], [{}, {"b": 1}]),
    "additionalProperties": (
        {**OBJECT, "additionalProperties": {"type": "null"}},
        [{"a": 1, "z": None}],
        [{"z": 1}, {"a": None}],
    ),
    "patternProperties": (
        {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
        [{}, {"xa": 1, "xb": 2}],
        [{"a": 1}, {"xa": "1"}],
    ),
    "propertyNames": ({"type": "object", "propertyNames": {"maxLength": 2}}, [{"ab": 1}, {}], [{"abc": 1}]),
    "names of a list": ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [{"a": 1}], [{"c": 1}]),
    "minProperties": ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
    "allOf": ({"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 4}]}, [3, 4], [2, 5, "a"]),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "string", "minLength": 2}]}, [1, "ab"], ["a", None]),
    "oneOf": ({"oneOf": [{"type": "integer", "minimum": 2}, {"type": "integer", "maximum": 4}]}, [1, 5], [2, 3, 4]),
    "oneOf objects": (
        {"oneOf": [{**OBJECT, "required": ["a"]}, {"type": "object", "properties": {"a": {"type": "null"}}}]},
        [{"a": 1}, {"a": None}, {"b": 1}],
        [{"a": "1"}],
    ),
    "not": ({"type": "object", "not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}]),
    "not these texts": ({"type": "string", "not": {"enum": ["ab", "a", ""]}}, ["b", "abc", "aa"], ["ab", "a", ""]),
    "if": (
        {"type": "integer", "if": {"minimum": 10}, "then": {"multipleOf": 5}, "else": {"multipleOf": 2}},
        [2, 8, 10, 15],
        [3, 12],
    ),
    "dependentRequired": (
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        [{}, {"b": 1}, {"a": 1, "b": 1}],
        [{"a": 1}],
    ),
    "dependentSchemas": (
        {"type": "object", "dependentSchemas": {"a": {"properties": {"b": {"type": "null"}}}}},
        [{"b": 1}, {"a": 1, "b": None}],
        [{"a": 1, "b": 1}],
    ),
    "unevaluatedProperties": (
        {
            "type": "object",
            "properties": {"a": True},
            "anyOf": [{"properties": {"b": {"const": 1}}, "required": ["b"]}, {"properties": {"c": True}}],
            "unevaluatedProperties": False,
        },
        [{"a": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 1, "c": 2}],
        [{"d": 1}, {"a": 1, "b": 2}],
    ),
    "unevaluatedItems": (
        {"type": "array", "prefixItems": [True], "allOf": [{"prefixItems": [True, True]}], "unevaluatedItems": False},
        [[], [1, 2]],
        [[1, 2, 3]],
    ),
    "$ref": (
        {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["next"]},
        [{"next": None}, {"next": {"next": None}}],
        [{}, {"next": {}}],
    ),
    "$anchor": ({"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "null"}}}, [None], [1]),
    "unknown keywords": ({"type": "null", "x-mine": 1, "title": "t", "deprecated": True}, [None], [1]),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_values_that_follow_a_schema_are_taken_and_no_others(name: str) -> None:
    schema, right, wrong = FOLLOWED[name]
    followed = Followed(schema)
    assert [value for value in right if not followed.takes(value)] == []
    assert [value for value in wrong if followed.takes(value)] == []


def test_a_name_cannot_come_in_another_spelling_to_get_around_its_schema() -> None:
    followed = Followed(OBJECT)
    assert followed.takes_text('{"a": 1}')
    assert not followed.takes_text('{"\\u0061": "no integer"}')
    assert not followed.takes_text('{"a": 1, "a": "no integer"}')


def test_members_come_in_the_order_of_the_schema() -> None:
    followed = Followed(OBJECT)
    assert followed.takes_text('{"a": 1, "b": "x", "other": 1}')
    assert not followed.takes_text('{"b": "x", "a": 1}')


def test_white_space_between_parts_has_an_end() -> None:
    followed = Followed({"type": "array"})
    assert followed.takes_text("[\n    1\n]")
    assert not followed.takes_text("[" + " " * 41 + "1]")


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no schema": (5, ()),
    "a type that is none": ({"type": "text"}, ("type",)),
    "what a rule below is": (
        {"properties": {"a": {"items": {"minimum": "1"}}}},
        ("properties", "a", "items", "minimum"),
    ),
    "a remote reference": ({"$ref": "https://example.com/schema"}, ("$ref",)),
    "a reference to nowhere": ({"$ref": "#/$defs/a"}, ("$ref",)),
    "a reference to itself": ({"allOf": [{"$ref": "#"}]}, ("$ref",)),
    "contains": ({"contains": {"type": "null"}}, ("contains",)),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, ("uniqueItems",)),
    "a format that is unknown": ({"format": "regex"}, ("format",)),
    "a format that is no string": ({"properties": {"d": {"format": ["date"]}}}, ("properties", "d", "format")),
    "a format that is an object": ({"format": {}}, ("format",)),
    "a reference that is no URI": ({"items": {"$ref": "http://[x#/a"}}, ("items", "$ref")),
    "an id that is no URI": ({"properties": {"a": {"$id": "http://[x"}}}, ("properties", "a", "$id")),
    "look-ahead": ({"pattern": "a(?=b)"}, ("pattern",)),
    "a pattern that must not hold": ({"type": "string", "not": {"pattern": "a"}}, ("not", "pattern")),
    "numbers that fp64 has not": ({"type": "integer", "maximum": 2**53 + 1}, ("maximum",)),
    "an infinite number": ({"const": float("inf")}, ("const",)),
    "a multiple that takes long": ({"type": "integer", "multipleOf": 4_000_000_007}, ("multipleOf",)),
    "members that may count twice": ({"type": "object", "minProperties": 2}, ("minProperties",)),
    "control characters": ({"const": "\x00"}, ("const",)),
    "llguidance's own options": ({"x-guidance": {"lenient": True}}, ("x-guidance",)),
    "an older draft's keyword": ({"dependencies": {"a": ["b"]}}, ("dependencies",)),
    "items of an older draft": ({"items": [{}]}, ("items",)),
    "another dialect": ({"$schema": "https://example.com/dialect"}, ("$schema",)),
    "nothing": ({"type": "integer", "minimum": 5, "maximum": 4}, ()),
    "nothing below": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, ()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_with_its_place(name: str) -> None:
    schema, path = REFUSED[name]
    with pytest.raises(UnsupportedSchema) as refused:
        rewritten(schema)
    assert refused.value.path == path


def chained(n: int) -> dict[str, Any]:
    members = {
        f"r{i}": {"type": "object", "required": ["n"], "properties": {"n": {"$ref": f"#/$defs/r{i + 1}"}}}
        for i in range(n)
    }
    return {"$ref": "#/$defs/r0", "$defs": {**members, f"r{n}": {"type": "null"}}}


HOSTILE: dict[str, Any] = {
    "a long chain": chained(3000),
    "alternatives of alternatives": {
        "allOf": [{"anyOf": [{"required": [f"{a}{i}"]} for a in "ab"]} for i in range(40)]
    },
    "exponential references": {
        "$ref": "#/$defs/r0",
        "$defs": {f"r{i}": {"allOf": [{"$ref": f"#/$defs/r{i + 1}"}] * 2} for i in range(50)} | {"r50": {}},
    },
    "many names in many alternatives": {
        "properties": {f"p{i}": {"type": "null"} for i in range(2000)},
        "anyOf": [{"required": [f"p{i}"]} for i in range(1000)],
    },
    "many texts that are ruled out": {"not": {"enum": [f"value {i}" for i in range(5000)]}},
    "too many schemas": {"anyOf": [{}] * 30_000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_before_it_takes_long(name: str) -> None:
    began = time.process_time()
    with pytest.raises(UnsupportedSchema):
        rewritten(HOSTILE[name])
    assert time.process_time() - began < 20


def test_alternatives_that_a_member_tells_apart_stay_as_many_as_they_are() -> None:
    def kind(name: str) -> dict[str, Any]:
        texts = {f"p{i}": {"type": "string"} for i in range(8)}
        return {"type": "object", "properties": {"kind": {"const": name}, **texts}, "required": ["kind", *texts]}

    whole = rewritten({"oneOf": [kind(f"k{i}") for i in range(20)]})
    assert len(whole["anyOf"]) == 20
    assert len(json.dumps(whole)) < 20_000
