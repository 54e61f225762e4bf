"""Grammars of answers, tried in their own process."""

import pytest
from llguidance import LLMatcher

from splitlearn_client.structured.answer_source import CONSTRAINED, AnswerSource, Rule, assembled
from splitlearn_client.structured.constraint import Constraint
from splitlearn_client.structured.grammar_trial import BadGrammar, GrammarTrial
from support.followed import BYTES

RULES = 'start: marker_7 "f" arguments_0'
SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "integer"}}}


def source(schema: object, tokens: dict[str, int]) -> AnswerSource:
    return AnswerSource(RULES, (Rule("arguments_0", ("3", "function", "parameters"), schema),), tokens)  # type: ignore[arg-type]


def test_a_special_token_is_its_id_for_the_model_and_a_name_where_grammars_are_tried() -> None:
    tried, used, *_ = assembled(source(SCHEMA, {"marker_7": 7}).text())
    assert 'marker_7: "<marker_7>"' in tried
    assert "marker_7: <[7]>" in used
    assert tried.partition("marker_7: ")[0] == used.partition("marker_7: ")[0]


def test_what_was_tried_compiles_and_a_schema_refers_into_itself() -> None:
    rules = AnswerSource('start: "f" arguments_0', source(SCHEMA, {}).schemas, {})
    matcher = LLMatcher(BYTES, GrammarTrial().grammar(Constraint("answer", rules.text(), "tools")), log_level=0)
    assert not matcher.is_error()
    assert all(matcher.consume_token(byte) for byte in b'f{"a":1')
    assert not matcher.consume_token(ord("x"))


def test_what_a_schema_cannot_have_is_named_with_its_place_among_the_tools() -> None:
    with pytest.raises(BadGrammar) as refused:
        GrammarTrial().grammar(
            Constraint("answer", source({"properties": {"a": {"uniqueItems": True}}}, {"marker_7": 7}).text(), "tools")
        )
    assert refused.value.path == ("3", "function", "parameters", "properties", "a", "uniqueItems")


@pytest.mark.parametrize(
    ("inner", "place"),
    [
        (Constraint("regex", "(", "structured_outputs.regex"), ("structured_outputs.regex",)),
        (Constraint("json_schema", '{"uniqueItems": true}', "text.format"), ("text.format", "uniqueItems")),
    ],
)
def test_what_is_wrong_with_a_part_s_constraint_is_said_of_its_own_field(
    inner: Constraint, place: tuple[str, ...]
) -> None:
    whole = AnswerSource(f'start: "x" {CONSTRAINED}', (), {}, inner)
    with pytest.raises(BadGrammar) as refused:
        GrammarTrial().grammar(Constraint("answer", whole.text(), "tools"))
    assert refused.value.path == place


@pytest.mark.parametrize("constraint", [None, Constraint("regex", "a+", "structured_outputs.regex")])
@pytest.mark.parametrize("n_tools", [1, 3])
def test_what_only_the_compiler_finds_wrong_with_a_schema_is_said_of_its_tool(
    constraint: Constraint | None, n_tools: int
) -> None:
    wrong = {"properties": {"a": {"type": "string", "pattern": "("}}}
    schemas = [*({"type": "object"} for _ in range(n_tools - 1)), wrong]
    rules = tuple(Rule(f"arguments_{i}", ("tools", str(i), "parameters"), each) for i, each in enumerate(schemas))
    either = " | ".join(rule.name for rule in rules) + (f" | {CONSTRAINED}" if constraint else "")
    whole = AnswerSource(f'X: "x"\nstart: {either}', rules, {}, constraint)
    with pytest.raises(BadGrammar, match="unclosed group") as refused:
        GrammarTrial().grammar(Constraint("answer", whole.text(), ""))
    assert refused.value.path == ("tools", str(n_tools - 1), "parameters")
    assert "arguments_" not in str(refused.value)


@pytest.mark.parametrize(
    ("inner", "is_refused"),
    [
        (Constraint("regex", r"[^\[].*", "here"), True),
        (Constraint("regex", "\\s*<[a-z_]+>.*", "here"), True),
        (Constraint("choice", '["yes", "<call> me"]', "here"), True),
        (Constraint("grammar", 'start: "<" /[a-z]+/ ">"', "here"), True),
        (Constraint("regex", r"[^<\[].*", "here"), False),
        (Constraint("regex", "<calm>.*", "here"), False),
        (Constraint("choice", '["yes", "say <call>"]', "here"), False),
        (Constraint("json_schema", "{}", "here"), False),
    ],
)
def test_a_constraint_with_texts_that_would_be_read_as_calls_is_refused(inner: Constraint, is_refused: bool) -> None:
    whole = AnswerSource(f'start: "x" | {CONSTRAINED}', (), {}, inner, ("[CALLS]", "<call>"))
    asked = Constraint("answer", whole.text(), "tools")
    if not is_refused:
        assert GrammarTrial().grammar(asked)
        return
    with pytest.raises(BadGrammar, match=r"may begin with <call>.*tool_choice") as refused:
        GrammarTrial().grammar(asked)
    assert refused.value.path == ("here",)


def test_a_part_follows_its_constraint() -> None:
    whole = AnswerSource(f'start: "x" {CONSTRAINED}', (), {}, Constraint("regex", "[ab]+", "field"))
    matcher = LLMatcher(BYTES, GrammarTrial().grammar(Constraint("answer", whole.text(), "tools")), log_level=0)
    assert all(matcher.consume_token(byte) for byte in b"xab")
    assert not matcher.consume_token(ord("x"))
