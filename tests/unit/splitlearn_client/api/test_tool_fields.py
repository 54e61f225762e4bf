from typing import Any

import pytest
from pydantic import ValidationError

from splitlearn_client.api.schema import ChatFields
from splitlearn_client.api.tool_fields import MOST_TOOLS

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
USER = {"role": "user", "content": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "tool_calls": [CALL]}


def chat(**fields: Any) -> ChatFields:
    return ChatFields.model_validate({"model": "tiny", "messages": [USER], **fields})


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def called(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{}", **fields}}]}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tools": [{"function": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [function(name="a b")]}, "tools.0.function.name"),
        ({"tools": [function(name="x" * 65)]}, "tools.0.function.name"),
        ({"tools": [function(strict="yes")]}, "tools.0.function.strict"),
        ({"tools": [function(parameters={"type": "array"})]}, "tools.0.function.parameters"),
        ({"tools": [function(parameters=[])]}, "tools.0.function.parameters"),
        ({"tools": [function(zzz=1)]}, "tools.0.function.zzz"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [function(name=f"f{i}") for i in range(MOST_TOOLS + 1)]}, "tools"),
        ({"tools": [function(description="x" * 140_000)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 1}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": function(name="g")}, "tool_choice.function.name"),
        ({"tools": [TOOL], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"messages": [{"role": "assistant"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "messages.0.tool_calls"),
        ({"messages": [{**USER, "reasoning_content": "hm"}]}, "messages.0.reasoning_content"),
        ({"messages": [{**USER, "tool_call_id": "1"}]}, "messages.0.tool_call_id"),
        ({"messages": [called(arguments="{")]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called(arguments="[]")]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called(arguments={})]}, "messages.0.tool_calls.0.function.arguments"),
        ({"messages": [called(name="")]}, "messages.0.tool_calls.0.function.name"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
            "messages.0.tool_calls.0.type",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_with_tools_is_named(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as refused:
        chat(**fields)
    assert ".".join(map(str, refused.value.errors()[0]["loc"])) == path


@pytest.mark.parametrize(
    ("fields", "offered", "must", "one", "constrains"),
    [
        ({}, [], False, False, False),
        ({"tools": []}, [], False, False, False),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, [], False, True, False),
        ({"tools": [TOOL]}, ["f"], False, False, False),
        ({"tools": [TOOL], "tool_choice": "none"}, [], False, False, False),
        ({"tools": [TOOL], "tool_choice": "required"}, ["f"], True, False, True),
        ({"tools": [TOOL, function(name="g")], "tool_choice": function(name="g")}, ["g"], True, True, True),
        ({"tools": [TOOL], "parallel_tool_calls": False}, ["f"], False, True, True),
        ({"tools": [TOOL, function(name="g", strict=True)]}, ["f", "g"], False, False, True),
    ],
)
def test_what_an_answer_may_do(
    fields: dict[str, Any], offered: list[str], must: bool, one: bool, constrains: bool
) -> None:
    read = chat(**fields)
    assert [each.name for each in read.offered.values()] == offered
    assert (read.must_call, read.is_one_call, read.constrains_calls) == (must, one, constrains)


def test_with_the_choice_none_the_template_is_told_of_no_tools_and_else_of_all() -> None:
    two = [TOOL, function(name="g", parameters={"type": "object", "properties": {"a": {}}})]
    assert chat(tools=two, tool_choice="none").rendering.tools == ()
    told = chat(tools=two, tool_choice=function(name="g")).rendering.tools
    assert [tool["function"]["name"] for tool in told] == ["f", "g"]
    assert told[1]["function"]["parameters"]["properties"] == {"a": {}}
    assert chat(tools=[], response_format={"type": "json_object"}).constraint() is not None


def test_a_call_is_given_to_the_template_with_its_arguments_as_an_object() -> None:
    [message] = chat(messages=[called(arguments='{"a": [1]}')]).messages
    plain = message.plain()
    assert (plain["role"], plain["content"]) == ("assistant", "")
    assert plain["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": [1]}}
    assert chat(messages=[called(arguments="")]).messages[0].plain()["tool_calls"][0]["function"]["arguments"] == {}
    result = chat(messages=[{"role": "tool", "tool_call_id": "1", "content": "x"}]).messages[0].plain()
    assert result == {"role": "tool", "tool_call_id": "1", "content": "x"}


def test_a_function_without_parameters_takes_none_and_one_with_takes_an_object() -> None:
    plain, given = (
        tool.function.schema_of_arguments for tool in chat(tools=[TOOL, function(name="g", parameters={})]).tools
    )
    assert plain["additionalProperties"] is False
    assert given == {"type": "object"}
