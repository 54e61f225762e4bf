"""What is said of a grammar that llguidance refuses, with its own errors."""

import pytest
from llguidance import LLMatcher, grammar_from

from splitlearn_client.structured.reasons import line_of, reason_of
from support.followed import BYTES


def error_of(kind: str, source: str) -> str:
    try:
        matcher = LLMatcher(BYTES, grammar_from(kind, source), log_level=0)
    except ValueError as error:
        return str(error)
    assert matcher.is_error()
    return str(matcher.get_error())


@pytest.mark.parametrize(
    ("kind", "source", "says"),
    [
        ("regex", "a/b[", "a regular expression is wrong: unclosed character class"),
        ("regex", r"(a)\1", "a regular expression is wrong: backreferences are not supported"),
        ("grammar", "root ::= [z-a]", "a regular expression is wrong: invalid character class range, the start"),
        ("grammar", 'root ::= "a"{3,1}', "range end must be >= start, got (3, 1)"),
        ("grammar", "root ::= foo", "it was read as GBNF, as it has no rule start of Lark: Rule 'foo' not found"),
        ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}', "no value follows the schema: minimum (5)"),
    ],
)
def test_rules_that_the_compiler_made_are_not_repeated(kind: str, source: str, says: str) -> None:
    reason = reason_of(error_of(kind, source))
    assert reason.startswith(says)
    assert "start:" not in reason
    assert "\n" not in reason
    assert " | " not in reason


def test_a_grammar_s_own_place_is_said_of_the_caller_s_grammar_alone() -> None:
    error = error_of("grammar", "start: a\na: b\nc: /x/")
    assert reason_of(error, is_own=True) == 'line 2, column 4: unknown name: "b"'
    assert reason_of(error) == 'unknown name: "b"'
    assert line_of(error) == 2
    assert line_of("no place") is None


def test_what_is_not_known_is_said_as_it_is() -> None:
    assert reason_of("something else<non-verbose/>") == "something else"
