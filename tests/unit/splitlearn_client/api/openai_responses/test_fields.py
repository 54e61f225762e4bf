"""What is refused, and at which place."""

from typing import Any

import pytest
from pydantic import ValidationError

from splitlearn_client.api.error_replies import invalid
from splitlearn_client.api.openai_responses.fields import MOST_METADATA, ResponsesFields

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}


def param(**fields: Any) -> str | None:
    """The field that the error names."""
    with pytest.raises(ValidationError) as refused:
        ResponsesFields.model_validate({"model": "tiny", "input": "hi", **fields})
    return invalid([{**each, "loc": ("body", *each["loc"])} for each in refused.value.errors()]).param


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"input": 5}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [5]}, "input.0"),
        ({"input": [[]]}, "input.0"),
        ({"input": [USER, {"type": "item_reference", "id": "x"}]}, "input.1"),
        ({"input": [{"type": ["message"]}]}, "input.0"),
        ({"input": [{"type": {}}]}, "input.0"),
        ({"input": [{"role": "tool", "content": "hi"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": 5}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text"),
        ({"input": [{**USER, "zzz": 1}]}, "input.0.zzz"),
        ({"input": [{**CALL, "arguments": "{"}]}, "input.0.arguments"),
        ({"input": [{**CALL, "arguments": "[]"}]}, "input.0.arguments"),
        ({"input": [{**CALL, "arguments": {}}]}, "input.0.arguments"),
        ({"input": [{**CALL, "name": "a b"}]}, "input.0.name"),
        ({"input": [{**CALL, "call_id": "x" * 257}]}, "input.0.call_id"),
        ({"input": [{**CALL, "namespace": "x"}]}, "input.0.namespace"),
        ({"input": [{"type": "function_call_output", "output": "5"}]}, "input.0.call_id"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input.0.encrypted_content"),
        ({"input": "\ud800"}, "input"),
        ({"instructions": 5}, "instructions"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "name": "f"}] * 129}, "tools"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"x": 1e999}}]}, "tools.0.parameters.x"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": 1}, "stream"),
        ({"store": "yes"}, "store"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"previous_response_id": "x" * 257}, "previous_response_id"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(MOST_METADATA + 1)}}, "metadata"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "lowest"}}, "reasoning.effort"),
        ({"include": ["file_search_call.results"]}, "include.0"),
        ({"include": "message.output_text.logprobs"}, "include"),
        ({"include": ["message.output_text.logprobs"] * 17}, "include"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"top_logprobs": 5, "include": ["reasoning.encrypted_content"]}, "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a"}, "text": {"format": {"type": "json_object"}}}, "structured_outputs"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"bad_words": [" "]}, "bad_words.0"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"truncation": "auto"}, "truncation"),
        ({"messages": [USER]}, "messages"),
        ({"n": 2}, "n"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_place(fields: dict[str, Any], path: str) -> None:
    assert param(**fields) == path


def test_a_very_long_list_of_wrong_items_is_one_error() -> None:
    with pytest.raises(ValidationError) as refused:
        ResponsesFields.model_validate({"model": "tiny", "input": [5] * 40_000})
    assert refused.value.error_count() == 1


def test_null_is_as_if_a_field_were_absent() -> None:
    absent = ResponsesFields.model_validate({"model": "tiny", "input": "hi"})
    names = set(ResponsesFields.model_fields) - {"model", "input"}
    assert ResponsesFields.model_validate({"model": "tiny", "input": "hi", **dict.fromkeys(names)}) == absent
