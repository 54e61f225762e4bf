"""What is refused, and at which place."""

from typing import Any

import pytest
from pydantic import ValidationError

from splitlearn_client.api.anthropic.fields import CountFields, MessagesFields
from splitlearn_client.api.error_replies import invalid

USER = {"role": "user", "content": "hi"}
USE = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
TOOL = {"name": "f", "input_schema": {"type": "object"}}


def param(fields: dict[str, Any], of: type[CountFields] = MessagesFields) -> str | None:
    """The field that the error names."""
    with pytest.raises(ValidationError) as refused:
        of.model_validate({"model": "tiny", "messages": [USER], "max_tokens": 5, **fields})
    return invalid([{**each, "loc": ("body", *each["loc"])} for each in refused.value.errors()]).param


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{**USER, "name": "x"}]}, "messages.0.name"),
        (said({"type": "image", "source": {}}), "messages.0.content.0"),
        (said({"type": "document"}), "messages.0.content.0"),
        (said({"type": "redacted_thinking", "data": "x"}, role="assistant"), "messages.0.content.0"),
        (said({"type": ["text"]}), "messages.0.content.0"),
        (said({"type": {}}), "messages.0.content.0"),
        (said("text"), "messages.0.content.0"),
        (said({"type": "text"}), "messages.0.content.0.text"),
        (said({"type": "text", "text": "\udc00"}), "messages.0.content.0.text"),
        (said({"type": "text", "text": "a", "citations": [{}]}), "messages.0.content.0.citations"),
        (said(USE), "messages.0.content.0.type"),
        (said({"type": "thinking", "thinking": "x"}), "messages.0.content.0.type"),
        (said({"type": "tool_result", "tool_use_id": "1"}, role="assistant"), "messages.0.content.0.type"),
        (said({**USE, "input": "{}"}, role="assistant"), "messages.0.content.0.input"),
        (said({**USE, "name": "a b"}, role="assistant"), "messages.0.content.0.name"),
        (said({**USE, "id": "x" * 257}, role="assistant"), "messages.0.content.0.id"),
        (said({"type": "tool_result"}), "messages.0.content.0.tool_use_id"),
        (
            said({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]}),
            "messages.0.content.0.content.0.type",
        ),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [{**TOOL, "input_schema": []}]}, "tools.0.input_schema"),
        ({"tools": [{**TOOL, "input_schema": {"x": 1e999}}]}, "tools.0.input_schema.x"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any", "name": "f"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"output_config": {"effort": "lowest"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"container": "x"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"n": 2}, "n"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_place(fields: dict[str, Any], path: str) -> None:
    assert param(fields) == path


@pytest.mark.parametrize("name", ["max_tokens", "stop_sequences", "stream", "temperature"])
def test_a_prompt_that_is_counted_has_no_fields_of_its_answer(name: str) -> None:
    given: dict[str, Any] = {"max_tokens": None, name: [] if name == "stop_sequences" else 1}
    assert param(given, CountFields) == name


def test_a_very_long_list_of_wrong_blocks_is_one_error() -> None:
    with pytest.raises(ValidationError) as refused:
        MessagesFields.model_validate({"model": "tiny", "max_tokens": 1, **said(*[5] * 40_000)})
    assert refused.value.error_count() == 1


def test_null_is_as_if_a_field_were_absent() -> None:
    whole = {"model": "tiny", "messages": [USER], "max_tokens": 5}
    names = set(MessagesFields.model_fields) - set(whole)
    assert MessagesFields.model_validate({**whole, **dict.fromkeys(names)}) == MessagesFields.model_validate(whole)


def test_no_edits_of_the_context_are_as_if_the_field_were_absent() -> None:
    whole = {"model": "tiny", "messages": [USER], "max_tokens": 5}
    sent = {**whole, "context_management": {"edits": []}}
    assert MessagesFields.model_validate(sent) == MessagesFields.model_validate(whole)
    assert param({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}) == "context_management"
