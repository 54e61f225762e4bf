"""Answers that are read by a tokenizer's response schema. The expected values are those of transformers 5.0."""

import json
from pathlib import Path
from typing import Any

import pytest

from splitlearn_client.parsing.dialect import Dialect, dialect_of
from splitlearn_client.parsing.events import Content
from splitlearn_client.parsing.response_schema import ResponseSchema, SchemaMismatch
from splitlearn_client.response_process import response_process
from splitlearn_client.tokenizer import ChatTokenizer
from support.taken_apart import called, however_it_is_cut, said, taken_apart, thought
from support.tiny_models import tiny_config, tiny_tokenizer

MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "role": {"const": "assistant"},
        "thinking": {"type": "string", "x-regex": r"\[think\](.*?)\[/think\]"},
        "content": {"type": "string", "x-regex": r"\[say\](.*?)(?:\[|$)"},
        "tool_calls": {
            "type": "array",
            "x-regex-iterator": r"\[call\](.*?)\[/call\]",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "x-regex": r"^(\w+)"},
                            "arguments": {
                                "type": "object",
                                "x-regex-key-value": r"(?P<key>\w+)=(?P<value>[^,]*)",
                                "additionalProperties": {"x-parser": "json", "x-parser-args": {"allow_non_json": True}},
                            },
                        },
                    },
                },
            },
        },
    },
}


def part(**schema: Any) -> Any:
    """A part of a message, found in all of the text."""
    return {"type": "object", "properties": {"part": schema}}


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (part(type="string", **{"x-regex": "<(.*)>"}), "a <b\nc> d", {"part": "b\nc"}),
        (part(type="string", **{"x-regex": "<(.*)>"}), "a", {}),
        (part(const=3), "a", {"part": 3}),
        (part(type="integer", **{"x-regex": "n=(.+)"}), "n=12", {"part": 12}),
        (part(type="number", **{"x-regex": "n=(.+)"}), "n=1e1", {"part": 10.0}),
        (part(type="boolean", **{"x-regex": "n=(.+)"}), "n=False", {"part": False}),
        (part(type="array", **{"x-regex": "a(.*)", "x-regex-iterator": r"(\d)", "items": {"type": "integer"}}), "1a23",
         {"part": [2, 3]}),
        (part(type="array", **{"x-regex-iterator": r"(\d)", "items": {}}), "none", {}),
        (part(type="array", **{"x-regex": "a(.)", "prefixItems": [{"type": "string"}]}), "ab", {"part": ["b"]}),
        (part(**{"x-regex": "a(.+)", "x-parser": "json"}), 'a{"b": [1]}', {"part": {"b": [1]}}),
        (part(**{"x-regex": "a(.+)", "x-parser": "json", "x-parser-args": {"allow_non_json": True}}), "a{",
         {"part": "{"}),
        (part(type="string", **{"x-regex": "a(.+)", "x-mapping": {"b": "c"}}), "ab", {"part": "c"}),
        (part(type="string", **{"x-regex": "a(.+)", "x-mapping-regex": {"b+": "c"}}), "abbd", {"part": "cd"}),
        (part(type="object", **{"x-regex": "(?P<k>.)(?P<l>.)", "properties": {"k": {}, "m": {"default": 1}}}), "ab",
         {"part": {"k": "a", "m": 1}}),
        (part(type="object", **{"x-regex-key-value": "(?P<key>.)=(?P<value>.)", "additionalProperties": {}}), "a=b c=d",
         {"part": {"a": "b", "c": "d"}}),
    ],
)  # fmt: skip
def test_a_schema_finds_what_it_describes(schema: Any, text: str, expected: Any) -> None:
    assert ResponseSchema(schema).read(text) == expected


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (part(type="integer", **{"x-regex": "n=(.+)"}), "n=two"),
        (part(type="boolean", **{"x-regex": "n=(.+)"}), "n=perhaps"),
        (part(**{"x-regex": "a(.+)", "x-parser": "json"}), "a{"),
        (part(type="string", **{"x-regex": "(.)(.)"}), "ab"),
        (part(type="string", **{"x-regex": "a"}), "a"),
        (part(type="array", **{"x-regex": "(a)", "items": {}}), "a"),
        (part(type="object", **{"x-regex": "(.)", "x-parser": "json"}), "1"),
        (part(type="object", **{"x-regex-key-value": "(.)"}), "a"),
        (part(type="string", **{"x-regex": "(a)", "x-mapping-regex": {"a": "\\2"}}), "a"),
    ],
)
def test_an_answer_of_another_form_is_told_from_one_that_fits(schema: Any, text: str) -> None:
    with pytest.raises(SchemaMismatch):
        ResponseSchema(schema).read(text)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("none", "not a schema"),
        ({"properties": {"a": 3}}, "not a schema"),
        ({"type": "any"}, "the type 'any'"),
        ({"type": ["string"]}, "the type"),
        ({"properties": [1]}, "properties is not in its form"),
        ({"prefixItems": {}}, "prefixItems is not in its form"),
        ({"x-parser-args": 3}, "x-parser-args is not in its form"),
        ({"x-mapping": 3}, "x-mapping is not in its form"),
        ({"x-mapping-regex": 3}, "x-mapping-regex is not in its form"),
        ({"x-regex": "("}, "an expression cannot be read"),
        ({"x-regex": 3}, "an expression cannot be read"),
        ({"x-parser": "xml"}, "x-parser reads JSON alone"),
        ({"x-parser": "json", "x-parser-args": {"transform": "a[0]"}}, "without a transform"),
        ({"items": {"x-else": 1}}, "x-else is not read"),
    ],
)
def test_a_schema_that_cannot_be_read_is_refused_with_the_reason(schema: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ResponseSchema(schema)


def schema_dialect() -> Dialect:
    return dialect_of("{{ messages }}", {}, schema=response_process("schema", json.dumps(MESSAGE)))


def test_reasoning_content_and_calls_come_as_the_schema_says_at_the_end() -> None:
    text = '[think]why?[/think][say]So.[call]f s=word,n=3[/call][call]f s="x"[/call]'
    events = however_it_is_cut(schema_dialect(), text)
    assert (thought(events), said(events)) == ("why?", "So.")
    assert [(name, json.loads(arguments)) for name, arguments in called(events)] == [
        ("f", {"s": "word", "n": 3}),
        ("f", {"s": "x"}),
    ]


@pytest.mark.parametrize("text", ["no markers", "[say]yes[call]h a=1[/call]", "[say]yes[call]!?[/call]"])
def test_an_answer_that_does_not_fit_is_content_as_it_is(text: str) -> None:
    assert taken_apart(schema_dialect(), [text]) == [Content(text)]


def test_a_form_that_is_read_as_it_comes_goes_before_a_schema() -> None:
    schema = response_process("schema", json.dumps(MESSAGE))
    assert dialect_of("<tool_call>", {}, schema=schema).schema is None
    assert dialect_of("<think>", {}, schema=schema).schema is None
    assert dialect_of("", {}, "auto", "none", schema=schema).schema is None


@pytest.mark.parametrize("schema", [MESSAGE, {"type": "any"}])
def test_a_schema_is_found_beside_the_tokenizer(tmp_path: Path, schema: dict[str, Any]) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"response_schema": schema}))
    found = ChatTokenizer(tmp_path, tiny_config("llama")).response_schema()
    assert (found is None) == (schema is not MESSAGE)
