"""What a request becomes as a chat, whose fields take it."""

from typing import Any

import pytest

from splitlearn_client.api.openai_responses.conversation import chat_of, said_by
from splitlearn_client.api.openai_responses.fields import ResponsesFields
from splitlearn_client.api.schema import ChatFields

TOOL = {"type": "function", "name": "f", "description": "does", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
PLAIN_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "why?"}]}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def chat(given: Any, before: Any = (), **fields: Any) -> tuple[ChatFields, list[dict[str, Any]], list[str]]:
    """The chat, its messages, and the place of each."""
    body, places = chat_of(ResponsesFields.model_validate({"model": "tiny", "input": given, **fields}), before)
    return ChatFields.model_validate(body), body["messages"], list(places.messages)


def test_a_text_is_the_message_of_a_user() -> None:
    assert chat("hi")[1:] == ([{"role": "user", "content": "hi"}], ["input"])


def test_instructions_come_before_what_was_said_and_what_is_said() -> None:
    before = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    _, messages, places = chat([{"role": "user", "content": "three"}], before, instructions="be brief")
    assert [message["content"] for message in messages] == ["be brief", "one", "two", "three"]
    assert messages[0]["role"] == "system"
    assert places == ["instructions", "previous_response_id", "previous_response_id", "input.0"]


def test_messages_keep_their_roles_and_their_parts() -> None:
    items = [
        {"role": "developer", "content": "a"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}]},
        said("c"),
    ]
    _, messages, places = chat(items)
    assert messages == [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": parts("b")},
        {"role": "assistant", "content": parts("c")},
    ]
    assert places == ["input.0", "input.1", "input.2"]


def test_what_the_assistant_thought_said_and_called_is_one_message() -> None:
    items = [{"role": "user", "content": "a"}, THOUGHT, said("b"), CALL, {**CALL, "call_id": "c2"}]
    fields, messages, places = chat(items)
    assert messages[1] == {
        "role": "assistant",
        "content": parts("b"),
        "reasoning_content": "why?",
        "tool_calls": [PLAIN_CALL, {**PLAIN_CALL, "id": "c2"}],
    }
    assert places == ["input.0", "input.1"]
    assert fields.messages[1].plain()["tool_calls"][0]["function"]["arguments"] == {"a": 1}


@pytest.mark.parametrize(
    ("items", "n"),
    [
        ([THOUGHT, THOUGHT], 1),
        ([THOUGHT, CALL], 1),
        ([CALL, CALL], 1),
        ([said("a"), said("b")], 2),
        ([CALL, said("a")], 2),
        ([said("a"), THOUGHT], 2),
        ([CALL, THOUGHT, CALL], 2),
    ],
)
def test_a_new_message_begins_where_the_order_would_be_lost(items: list[Any], n: int) -> None:
    assert len(chat(items)[1]) == n


def test_the_result_of_a_call_is_a_message_of_the_tool() -> None:
    result = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "5"}]}
    fields, messages, places = chat([CALL, result, CALL])
    assert [message["role"] for message in messages] == ["assistant", "tool", "assistant"]
    assert places == ["input.0", "input.1", "input.2"]
    assert fields.messages[1].plain() == {"role": "tool", "tool_call_id": "c1", "content": parts("5")}


def test_the_summary_of_reasoning_is_read_where_there_is_no_more() -> None:
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "in short"}]}
    assert chat([summary, CALL])[1][0]["reasoning_content"] == "in short"


def test_other_fields_are_those_of_a_chat() -> None:
    fields, _, _ = chat(
        "hi",
        tools=[TOOL],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        max_output_tokens=5,
        temperature=0.5,
        top_p=0.25,
        chat_template_kwargs={"enable_thinking": False},
    )
    assert fields.tools[0].function.description == "does"
    assert [each.name for each in fields.offered.values()] == ["f"]
    assert fields.must_call
    assert fields.is_one_call
    assert fields.max_completion_tokens == 5
    assert fields.sampling(None).temperature == 0.5
    assert fields.sampling(None).top_p == 0.25
    assert fields.rendering.variables == {"enable_thinking": False}


def test_what_is_left_out_has_the_defaults_of_a_chat() -> None:
    plain = ChatFields.model_validate({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]})
    fields, _, _ = chat("hi")
    assert fields == plain
    assert not {"temperature", "top_p"} & fields.model_fields_set


@pytest.mark.parametrize(
    ("wanted", "kind", "source"),
    [
        ({"type": "json_object"}, "json_schema", '{"type": "object"}'),
        ({"type": "json_schema", "name": "n", "schema": {"type": "array"}}, "json_schema", '{"type": "array"}'),
    ],
)
def test_a_format_constrains_the_answer(wanted: Any, kind: str, source: str) -> None:
    constraint = chat("hi", text={"format": wanted})[0].constraint()
    assert constraint is not None
    assert (constraint.kind, constraint.source) == (kind, source)


@pytest.mark.parametrize("text", [None, {}, {"format": {"type": "text"}}, {"verbosity": "medium"}])
def test_text_is_not_constrained(text: Any) -> None:
    assert chat("hi", text=text)[0].constraint() is None


def output(kind: str, status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "status": status, **fields}


def test_an_answer_is_the_message_that_a_later_request_goes_on_with() -> None:
    message = said_by(
        [
            output("reasoning", content=[{"text": "why?"}]),
            output("message", content=[{"text": "So."}]),
            output("function_call", call_id="c1", name="f", arguments='{"a": 1}'),
            output("function_call", "incomplete", call_id="c2", name="f", arguments='{"a"'),
            # a stream had begun it before it turned out to be none
            output("function_call", call_id="c3", name="f", arguments='{"a": 1, "a": 2}'),
        ]
    )
    assert message == {
        "role": "assistant",
        "content": "So.",
        "reasoning_content": "why?",
        "tool_calls": [PLAIN_CALL],
    }
    assert chat("and?", [{"role": "user", "content": "hi"}, message])[1][1] == message


def test_an_answer_without_a_word_is_no_message() -> None:
    assert said_by([]) is None
    assert said_by([output("message", content=[{"text": ""}])]) is None
    assert said_by([output("function_call", "incomplete", call_id="c", name="f", arguments="")]) is None


@pytest.mark.parametrize(
    "sent", [{"json": {"type": "object"}}, {"regex": "a+"}, {"choice": ["a", "b"]}, {"json_object": True}]
)
def test_a_form_of_vllm_is_that_of_the_chat(sent: dict[str, Any]) -> None:
    fields, _, _ = chat("hi", structured_outputs=sent, text={"format": {"type": "text"}})
    whole = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "structured_outputs": sent}
    assert fields.constraint() == ChatFields.model_validate(whole).constraint() is not None


def test_log_probabilities_are_those_of_the_chat_if_they_are_included() -> None:
    include = ["message.output_text.logprobs"]
    asked = [chat("hi")[0], chat("hi", include=include)[0], chat("hi", include=include, top_logprobs=3)[0]]
    assert [(each.logprobs, each.top_logprobs) for each in asked] == [(False, None), (True, None), (True, 3)]


def test_tokens_that_may_come_and_the_salt_are_those_of_the_chat() -> None:
    fields, _, _ = chat("hi", allowed_token_ids=[5], bad_words=["fox"], cache_salt="a")
    assert (fields.allowed_token_ids, fields.bad_words, fields.cache_salt) == ([5], ["fox"], "a")
