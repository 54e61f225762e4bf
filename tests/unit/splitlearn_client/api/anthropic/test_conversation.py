"""What a request becomes as a chat, whose fields take it."""

from typing import Any

import pytest

from splitlearn_client.api.anthropic.conversation import chat_of
from splitlearn_client.api.anthropic.fields import CountFields, MessagesFields
from splitlearn_client.api.schema import ChatFields

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "f", "description": "does", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": "ü"}}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def result(content: Any, identity: str = "c1") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identity, "content": content}


def chat(*messages: Any, **fields: Any) -> tuple[ChatFields, list[dict[str, Any]], list[str]]:
    """The chat, its messages, and the place of each."""
    whole = {"model": "tiny", "max_tokens": 5, "messages": list(messages or [USER]), **fields}
    body, places = chat_of(MessagesFields.model_validate(whole))
    return ChatFields.model_validate(body), body["messages"], list(places.messages)


def test_the_system_text_is_the_first_message() -> None:
    _, messages, places = chat(USER, system="be brief")
    assert messages == [{"role": "system", "content": "be brief"}, USER]
    assert places == ["system", "messages.0"]


def test_one_block_of_text_is_a_text_and_several_are_parts() -> None:
    _, messages, _ = chat({"role": "user", "content": [text("a"), text("b")]}, system=[text("s")])
    assert messages == [{"role": "system", "content": "s"}, {"role": "user", "content": [text("a"), text("b")]}]


def test_results_of_calls_are_messages_of_the_tool_in_the_order_of_the_blocks() -> None:
    content = [result("1"), result([text("2"), text("3")], "c2"), text("and?")]
    fields, messages, places = chat({"role": "assistant", "content": [USE]}, {"role": "user", "content": content})
    assert messages[1:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": [text("2"), text("3")]},
        {"role": "user", "content": "and?"},
    ]
    assert places == ["messages.0", "messages.1", "messages.1", "messages.1"]
    assert fields.messages[1].tool_call_id == "c1"


def test_a_message_without_blocks_is_one_without_text() -> None:
    assert chat({"role": "user", "content": []})[1:] == ([{"role": "user", "content": ""}], ["messages.0"])


def test_what_the_assistant_thought_said_and_called_is_one_message() -> None:
    blocks = [{"type": "thinking", "thinking": "why?", "signature": "s"}, text("So."), USE]
    fields, messages, _ = chat(USER, {"role": "assistant", "content": blocks}, USER)
    assert messages[1]["reasoning_content"] == "why?"
    assert messages[1]["content"] == "So."
    assert fields.messages[1].plain()["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": "ü"}}}
    ]


def test_the_answer_goes_on_with_a_last_text_of_the_assistant() -> None:
    fields, _, _ = chat(USER, {"role": "assistant", "content": "Once"})
    assert fields.rendering.continues
    assert not fields.rendering.begins_answer


@pytest.mark.parametrize("content", [[USE], [text("So."), USE], []])
def test_the_answer_does_not_go_on_with_a_call_or_with_nothing(content: list[Any]) -> None:
    assert not chat(USER, {"role": "assistant", "content": content})[0].rendering.continues


@pytest.mark.parametrize(
    ("choice", "must_call", "offered"),
    [
        ({"type": "auto"}, False, ["f", "g"]),
        ({"type": "any"}, True, ["f", "g"]),
        ({"type": "tool", "name": "g"}, True, ["g"]),
        ({"type": "none"}, False, []),
    ],
)
def test_choices_of_tools_are_those_of_chats(choice: dict[str, Any], must_call: bool, offered: list[str]) -> None:
    fields, _, _ = chat(tools=[TOOL, {**TOOL, "name": "g"}], tool_choice=choice)
    assert [each.name for each in fields.offered.values()] == offered
    assert fields.must_call is must_call


def test_several_calls_at_once_can_be_forbidden() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert chat(tools=[TOOL], tool_choice=choice)[0].is_one_call
    assert not chat(tools=[TOOL], tool_choice={"type": "auto"})[0].is_one_call
    assert not chat(tools=[TOOL])[0].is_one_call


def test_other_fields_are_those_of_a_chat() -> None:
    fields, _, _ = chat(
        tools=[{**TOOL, "strict": True}],
        stop_sequences=["END", "."],
        temperature=0.5,
        top_p=0.25,
        top_k=3,
        chat_template_kwargs={"enable_thinking": False},
    )
    assert fields.max_completion_tokens == 5
    assert fields.stop_rules.texts == ("END", ".")
    sampling = fields.sampling(None)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 3)
    assert fields.tools[0].function.strict
    assert fields.tools[0].function.description == "does"
    assert fields.rendering.variables == {"enable_thinking": False}


def test_what_is_left_out_has_the_defaults_of_a_chat() -> None:
    fields, _, _ = chat()
    assert not {"temperature", "top_p", "top_k"} & fields.model_fields_set
    assert fields.stop_rules.texts == ()


def test_a_format_constrains_the_answer() -> None:
    wanted = {"format": {"type": "json_schema", "schema": {"type": "array"}}}
    constraint = chat(output_config=wanted)[0].constraint()
    assert constraint is not None
    assert (constraint.kind, constraint.source) == ("json_schema", '{"type": "array"}')


def test_a_prompt_that_is_counted_is_that_of_the_request() -> None:
    whole = {"model": "tiny", "messages": [USER], "system": "s", "tools": [TOOL]}
    counted, _ = chat_of(CountFields.model_validate(whole))
    asked, _ = chat_of(MessagesFields.model_validate({**whole, "max_tokens": 5}))
    one, other = ChatFields.model_validate(counted), ChatFields.model_validate(asked)
    assert (one.messages, one.rendering) == (other.messages, other.rendering)
