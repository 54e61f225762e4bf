from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.answer_parts import AnswerParts
from splitlearn_client.parsing.dialect import Dialect, Prefix
from splitlearn_client.parsing.events import Arguments, CallBegun, Content
from splitlearn_client.parsing.forms.hermes import Hermes

DIALECT = Dialect(Hermes(), new_identity=lambda: "call_1")
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def parts(*, holds: bool = False) -> AnswerParts:
    return AnswerParts(DIALECT.reading({"f": {"type": "object"}}, Prefix()), holds=holds)


def test_without_a_reading_all_text_is_content_and_no_text_is_nothing() -> None:
    plain = AnswerParts(None)
    assert plain.add(TokenDelta(CALL)) == [Content(CALL)]
    assert plain.add(TokenDelta("", finish_reason="stop")) == []
    assert plain.finish_reason(TokenDelta("", finish_reason="stop")) == "stop"


def test_a_call_is_told_as_it_comes_or_once_it_is_complete() -> None:
    begun = TokenDelta(CALL.partition("1}")[0])
    assert CallBegun(0, "call_1", "f") in parts().add(begun)
    assert parts(holds=True).add(begun) == []


def test_an_answer_that_called_a_tool_ended_for_that_unless_it_was_cut_off() -> None:
    called = parts()
    last = TokenDelta(CALL, finish_reason="stop")
    events = called.add(last)
    assert "".join(event.text for event in events if isinstance(event, Arguments)) == '{"a": 1}'
    assert called.finish_reason(last) == "tool_calls"
    assert called.finish_reason(TokenDelta("", finish_reason="length")) == "length"
    assert called.finish_reason(TokenDelta("")) is None
