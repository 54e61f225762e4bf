"""Grammars of calls, tried in their own process."""

import pytest
from llguidance import LLMatcher

from splitlearn_client.structured.constraint import Constraint
from splitlearn_client.structured.grammar_trial import BadGrammar, GrammarTrial
from splitlearn_client.structured.tool_calls import CallsSource, Rule, assembled
from support.followed import BYTES

RULES = 'start: marker_7 "f" arguments_0'
SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "integer"}}}


def source(schema: object, tokens: dict[str, int]) -> CallsSource:
    return CallsSource(RULES, (Rule("arguments_0", ("3", "function", "parameters"), schema),), tokens)  # type: ignore[arg-type]


def test_a_special_token_is_its_id_for_the_model_and_a_name_where_grammars_are_tried() -> None:
    tried, used = assembled(source(SCHEMA, {"marker_7": 7}).text())
    assert 'marker_7: "<marker_7>"' in tried
    assert "marker_7: <[7]>" in used
    assert tried.partition("marker_7: ")[0] == used.partition("marker_7: ")[0]


def test_what_was_tried_compiles_and_a_schema_refers_into_itself() -> None:
    rules = CallsSource('start: "f" arguments_0', source(SCHEMA, {}).schemas, {})
    matcher = LLMatcher(BYTES, GrammarTrial().grammar(Constraint("calls", rules.text(), "tools")), log_level=0)
    assert not matcher.is_error()
    assert all(matcher.consume_token(byte) for byte in b'f{"a":1')
    assert not matcher.consume_token(ord("x"))


def test_what_a_schema_cannot_have_is_named_with_its_place_among_the_tools() -> None:
    with pytest.raises(BadGrammar) as refused:
        GrammarTrial().grammar(
            Constraint("calls", source({"properties": {"a": {"uniqueItems": True}}}, {"marker_7": 7}).text(), "tools")
        )
    assert refused.value.path == ("3", "function", "parameters", "properties", "a", "uniqueItems")
