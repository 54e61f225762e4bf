"""The tables themselves are the cases: what they accept, what they refuse, and that nobody is missing."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import (
    EasyInputMessageParam,
    FunctionToolParam,
    ResponseFormatTextJSONSchemaConfigParam,
    ResponseFunctionToolCallParam,
    ResponseInputTextParam,
    ResponseOutputMessageParam,
    ResponseOutputTextParam,
    ResponseReasoningItemParam,
    ResponseTextConfigParam,
    response_create_params,
    response_input_item_param,
)
from openai.types.shared_params import FunctionDefinition
from pydantic import ValidationError

from splitlearn_client.api import neutral
from splitlearn_client.api.anthropic import fields as anthropic
from splitlearn_client.api.neutral import ANYTHING, Neutral, only
from splitlearn_client.api.openai_responses import fields as responses
from splitlearn_client.api.schema import (
    ChatFields,
    CompletionFields,
    EmbeddingFields,
    Fields,
    Message,
    StreamOptions,
    TextPart,
    TokenizeFields,
)
from splitlearn_client.api.structured_fields import StructuredOutputs
from splitlearn_client.api.tool_fields import Function, Tool, ToolCall

API = Path(__file__).parents[4] / "docs" / "api.md"
# what no answer without a use for it has, and no sampler takes for a default
STRANGE = {"strange": [1]}
WHOLE: Mapping[type[Fields], dict[str, Any]] = {
    CompletionFields: {"model": "tiny", "prompt": "hi"},
    ChatFields: {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
    TokenizeFields: {"prompt": "hi"},
    EmbeddingFields: {"model": "tiny", "input": "hi"},
    StreamOptions: {},
    StructuredOutputs: {"regex": "a"},
    Message: {"role": "assistant", "content": "hi"},
    ToolCall: {"id": "1", "function": {"name": "f", "arguments": "{}"}},
    TextPart: {"type": "text", "text": "hi"},
    responses.ResponsesFields: {"model": "tiny", "input": "hi"},
    responses.TextConfig: {},
    responses.ReasoningConfig: {},
    responses.FunctionTool: {"type": "function", "name": "f"},
    responses.ReasoningItem: {"type": "reasoning"},
    responses.InputText: {"type": "input_text", "text": "hi"},
    anthropic.MessagesFields: {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1,
    },
    anthropic.Tool: {"name": "f", "input_schema": {}},
    anthropic.OutputConfig: {},
    anthropic.TextBlock: {"type": "text", "text": "hi"},
}
# what would change the answer whatever its value: only null is taken
ALWAYS_REFUSED = {
    "access_programs",
    "audio",
    "background_options",
    "conversation",
    "function_call",
    "image",
    "moderation",
    "namespace",
    "prompt",
    "web_search_options",
}


def rules() -> Iterator[Any]:
    for fields, whole in WHOLE.items():
        for name, rule in fields.neutral.items():
            yield pytest.param(fields, whole, name, rule, id=f"{fields.__name__}.{name}")


def sendable(rule: Neutral) -> list[Any]:
    """The values that the rule's own words name."""
    if rule is ANYTHING:
        return [STRANGE, "text", 5, True, []]
    return [json.loads(word) for word in rule.words.split(" or ")]


@pytest.mark.parametrize(("fields", "whole", "name", "rule"), list(rules()))
def test_a_neutral_value_is_as_if_the_field_were_absent(
    fields: type[Fields], whole: dict[str, Any], name: str, rule: Neutral
) -> None:
    absent = fields.model_validate(whole)
    for value in [*sendable(rule), None]:
        assert fields.model_validate({**whole, name: value}) == absent


@pytest.mark.parametrize(("fields", "whole", "name", "rule"), list(rules()))
def test_any_other_value_is_refused_by_name_with_the_one_that_would_be_taken(
    fields: type[Fields], whole: dict[str, Any], name: str, rule: Neutral
) -> None:
    if rule is ANYTHING:
        return
    with pytest.raises(ValidationError) as refused:
        fields.model_validate({**whole, name: STRANGE})
    problem = refused.value.errors()[0]
    assert problem["loc"][0] == name
    if name not in fields.model_fields:
        assert problem["msg"] == f"this value is not supported here; leave it out or send {rule.words}"


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        (CompletionFields, completion_create_params.CompletionCreateParamsBase),
        (ChatFields, chat_create_params.CompletionCreateParamsBase),
        (EmbeddingFields, embedding_create_params.EmbeddingCreateParams),
        (StreamOptions, ChatCompletionStreamOptionsParam),
        (Message, ChatCompletionUserMessageParam),
        (Message, ChatCompletionAssistantMessageParam),
        (Message, ChatCompletionToolMessageParam),
        (TextPart, ChatCompletionContentPartTextParam),
        (Tool, ChatCompletionFunctionToolParam),
        (Function, FunctionDefinition),
        (ToolCall, ChatCompletionMessageFunctionToolCallParam),
        (responses.ResponsesFields, response_create_params.ResponseCreateParamsBase),
        (StreamOptions, response_create_params.StreamOptions),
        (responses.MessageItem, EasyInputMessageParam),
        (responses.MessageItem, ResponseOutputMessageParam),
        (responses.CallItem, ResponseFunctionToolCallParam),
        (responses.CallOutputItem, response_input_item_param.FunctionCallOutput),
        (responses.ReasoningItem, ResponseReasoningItemParam),
        (responses.InputText, ResponseInputTextParam),
        (responses.InputText, ResponseOutputTextParam),
        (responses.FunctionTool, FunctionToolParam),
        (responses.TextConfig, ResponseTextConfigParam),
        (responses.TextFormat, ResponseFormatTextJSONSchemaConfigParam),
    ],
)
def test_no_field_of_the_openai_package_was_forgotten(fields: type[Fields], known: Any) -> None:
    decided = fields.names() | set(fields.neutral) | ALWAYS_REFUSED
    assert set(known.__annotations__) <= decided


@pytest.mark.parametrize(
    ("value", "sent", "same"),
    [
        (0, 0.0, True),
        (0, False, False),
        (1, True, False),
        (False, 0, False),
        (False, False, True),
        ([], [], True),
        ([], {}, False),
        ([], [None], False),
        ({}, {"a": None}, True),
        ({"type": "text"}, {"type": "text", "json_schema": None}, True),
        ({"type": "text"}, {"type": "json_object"}, False),
        ({"type": "text"}, {"type": "text", "strict": True}, False),
        (["text"], ["text", "audio"], False),
        ("auto", "Auto", False),
    ],
)
def test_values_are_compared_as_json(value: object, sent: object, same: bool) -> None:
    assert only(value).holds(sent) is same


def test_the_document_lists_every_field_with_what_it_takes() -> None:
    servers, generation = neutral.SERVERS, neutral.GENERATION
    tables = {
        "all four": servers,
        "completions and chat": {k: v for k, v in generation.items() if k not in servers},
        "completions": {k: v for k, v in neutral.COMPLETION.items() if k not in generation},
        "chat": {k: v for k, v in neutral.CHAT.items() if k not in generation},
        "`/tokenize`": neutral.TOKENIZE,
        "`/v1/embeddings`": neutral.EMBEDDING,
        "a call in a message": neutral.TOOL_CALL,
        "`structured_outputs`": neutral.STRUCTURED_OUTPUTS,
        "`stream_options`": neutral.STREAM_OPTIONS,
        "a message": neutral.MESSAGE,
        "a part of a message": neutral.CONTENT_PART,
        "`/v1/responses`": {k: v for k, v in neutral.RESPONSES.items() if k not in servers},
        "`text` of `/v1/responses`": neutral.RESPONSES_TEXT,
        "`reasoning` of `/v1/responses`": neutral.RESPONSES_REASONING,
        "the tools of `/v1/responses`": neutral.RESPONSES_TOOL,
        "an item of `input`": neutral.RESPONSES_ITEM,
        "a part of an item": neutral.RESPONSES_PART,
        "`/v1/messages`": {k: v for k, v in neutral.ANTHROPIC.items() if k not in servers},
        "`output_config`": neutral.ANTHROPIC_OUTPUT,
        "the tools of `/v1/messages`": neutral.ANTHROPIC_TOOL,
        "a block of a message": neutral.ANTHROPIC_BLOCK,
    }
    rows = [f"| {where} | {words} | {names} |" for where, table in tables.items() for words, names in by_words(table)]
    written = API.read_text(encoding="utf-8").splitlines()
    missing = [row for row in rows if row not in written]
    assert not missing, "docs/api.md lacks:\n" + "\n".join(missing)


def by_words(table: Mapping[str, Neutral]) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for name, rule in table.items():
        words = " or ".join(
            word if word[0].islower() and " " in word else f"`{word}`" for word in rule.words.split(" or ")
        )
        found.setdefault(rule.words if rule is ANYTHING else words, []).append(f"`{name}`")
    return [(words, ", ".join(sorted(names))) for words, names in found.items()]
