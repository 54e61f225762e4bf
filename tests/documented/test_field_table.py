"""What the page of fields says, against the schemas themselves."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from splitlearn_client.api.anthropic import conversation as anthropic
from splitlearn_client.api.anthropic.fields import MessagesFields
from splitlearn_client.api.openai_responses import conversation as responses
from splitlearn_client.api.openai_responses.fields import ResponsesFields
from splitlearn_client.api.schema import ChatFields
from tests.documented.field_table import (
    AUTHORS,
    OTHERS,
    PAGE,
    REFUSES,
    SCHEMAS,
    SERVERS,
    TAKEN,
    UNUSED,
    decided,
    names,
    render,
    theirs,
)
from tests.documented.refused_fields import REFUSED

API = Path(__file__).parents[2] / "services" / "splitlearn_client" / "api"
STRANGE = {"strange": [1]}
_CHAT = [{"role": "user", "content": "hi"}]
_SCHEMA = {"type": "object"}
WHOLE: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": _CHAT},
    "/v1/completions": {"model": "tiny", "prompt": "hi"},
    "/v1/responses": {"model": "tiny", "input": "hi"},
    "/v1/messages": {"model": "tiny", "messages": _CHAT, "max_tokens": 1},
    "/v1/embeddings": {"model": "tiny", "input": "hi"},
}
# none of them is a default
VALUES: Mapping[str, Any] = {
    "reasoning": {"effort": "low"},
    "reasoning_effort": "low",
    "add_generation_prompt": False,
    "allowed_token_ids": [5],
    "bad_words": ["a"],
    "best_of": 2,
    "cache_salt": "a",
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": True,
    "dimensions": 8,
    "echo": True,
    "encoding_format": "base64",
    "frequency_penalty": 0.5,
    "ignore_eos": True,
    "include": ["message.output_text.logprobs"],
    "include_stop_str_in_output": True,
    "input": "ho",
    "instructions": "be brief",
    "logit_bias": {"5": 1},
    "max_completion_tokens": 5,
    "max_output_tokens": 5,
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "ho"}],
    "metadata": {"a": "b"},
    "min_p": 0.5,
    "min_tokens": 5,
    "model": "other",
    "n": 2,
    "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
    "parallel_tool_calls": False,
    "presence_penalty": 0.5,
    "previous_response_id": "resp_1",
    "prompt": [1, 2],
    "prompt_logprobs": 5,
    "repetition_penalty": 1.5,
    "return_token_ids": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA}},
    "seed": 5,
    "stop": ["a"],
    "stop_sequences": ["a"],
    "stop_token_ids": [5],
    "store": False,
    "stream": True,
    "stream_options": {"include_usage": True},
    "structured_outputs": {"regex": "a"},
    "system": "be brief",
    "temperature": 0.5,
    "text": {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA}},
    "tool_choice": "none",
    "top_k": 5,
    "top_p": 0.5,
    "truncate_prompt_tokens": 5,
}
# fields whose values differ from one API to the other, or need another field
VALUES_OF: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {
        "logprobs": {"logprobs": True},
        "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}]},
        "top_logprobs": {"top_logprobs": 5, "logprobs": True},
    },
    "/v1/completions": {"logprobs": {"logprobs": 5}},
    "/v1/responses": {
        "tools": {"tools": [{"type": "function", "name": "f", "parameters": _SCHEMA}]},
        "top_logprobs": {"top_logprobs": 5, "include": ["message.output_text.logprobs"]},
    },
    "/v1/messages": {
        "tool_choice": {"tool_choice": {"type": "none"}},
        "tools": {"tools": [{"name": "f", "input_schema": _SCHEMA}]},
    },
}


def rows(words: str) -> Iterator[Any]:
    """Endpoint and field of the rows with these words for SplitLearn."""
    for endpoint in SCHEMAS:
        for name in names(endpoint):
            if decided(endpoint, name) == words:
                yield pytest.param(endpoint, name, id=f"{endpoint}-{name}")


def read(endpoint: str, body: dict[str, Any]) -> None:
    """Raises ValidationError for what the endpoint refuses by its schema, or by that of the chat that it becomes."""
    fields = SCHEMAS[endpoint].model_validate(body)
    if isinstance(fields, ResponsesFields):
        ChatFields.model_validate(responses.chat_of(fields, [])[0])
    if isinstance(fields, MessagesFields):
        ChatFields.model_validate(anthropic.chat_of(fields)[0])


def test_the_page_of_fields_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run make field-table"


def test_every_field_that_others_have_and_the_service_refuses_was_decided_on() -> None:
    everybodys = {
        (endpoint, name) for endpoint in SCHEMAS for who in (*SERVERS, *AUTHORS) for name in theirs(who, endpoint)
    }
    refused = {name for endpoint, name in everybodys if decided(endpoint, name) == REFUSES}
    listed = [name for fields in REFUSED.values() for name in fields.split()]
    assert sorted(listed) == sorted(refused)


@pytest.mark.parametrize(("endpoint", "name"), list(rows(TAKEN)))
def test_a_field_that_the_page_calls_supported_is_taken(endpoint: str, name: str) -> None:
    value = VALUES_OF.get(endpoint, {}).get(name) or {name: VALUES[name]}
    read(endpoint, WHOLE[endpoint] | value)


@pytest.mark.parametrize(("endpoint", "name"), list(rows(UNUSED)))
def test_a_field_that_the_page_calls_unused_may_hold_anything(endpoint: str, name: str) -> None:
    read(endpoint, WHOLE[endpoint] | {name: STRANGE})


@pytest.mark.parametrize(("endpoint", "name"), list(rows(REFUSES)))
def test_a_field_that_the_page_calls_refused_is_refused_by_name(endpoint: str, name: str) -> None:
    for value in (STRANGE, "text", 5, 1, 0, -1, True, False, [], {}):
        with pytest.raises(ValidationError) as refused:
            read(endpoint, WHOLE[endpoint] | {name: value})
        assert refused.value.errors()[0]["loc"] == (name,)


def test_endpoints_that_the_page_calls_missing_are_missing() -> None:
    route = re.compile(r'@routes\.(?:get|post|delete)\("([^"]+)"\)')
    here = {path for module in API.rglob("*.py") for path in route.findall(module.read_text(encoding="utf-8"))}
    assert set(SCHEMAS) <= here
    missing = {path for row in OTHERS["endpoints_elsewhere"] for server in SERVERS for path in row[server]}
    assert not missing & here
