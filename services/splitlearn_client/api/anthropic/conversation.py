"""Translates a request of the Messages API into a chat.

Pure.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from splitlearn_client.api.anthropic.fields import (
    Block,
    CountFields,
    Message,
    MessagesFields,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from splitlearn_client.api.places import Places

Json = dict[str, Any]

_NAMES: Final = {
    "tools.N.function.parameters": "tools.N.input_schema",
    "tools.N.function": "tools.N",
    "tool_choice.function.name": "tool_choice.name",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "response_format.json_schema.schema": "output_config.format.schema",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "reasoning_effort": "output_config.effort",
}
# the chat's schema needs one, and the model is not told of it
_SCHEMA_NAME: Final = "output"


def chat_of(fields: CountFields) -> tuple[Json, Places]:
    """The body of the chat, and where its fields are in the request.

    A last message of the assistant with text is gone on with.
    """
    messages, places = list[Json](), list[str]()
    if fields.system is not None:
        messages.append({"role": "system", "content": _text(fields.system)})
        places.append("system")
    for number, message in enumerate(fields.messages):
        for each in _messages(message):
            messages.append(each)
            places.append(f"messages.{number}")
    body: Json = {"model": fields.model, "messages": messages, "tools": [_tool(each) for each in fields.tools]}
    body |= _choice(fields.tool_choice)
    body["response_format"] = _response_format(fields)
    body["chat_template_kwargs"] = fields.chat_template_kwargs
    body["reasoning_effort"] = None if fields.output_config is None else fields.output_config.effort
    last = messages[-1]
    if last["role"] == "assistant" and last["content"] and "tool_calls" not in last:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    if isinstance(fields, MessagesFields):
        body |= {"max_completion_tokens": fields.max_tokens, "stop": fields.stop_sequences}
        body |= {"temperature": fields.temperature, "top_p": fields.top_p, "top_k": fields.top_k}
    return body, Places("messages", places, _NAMES)


def _messages(message: Message) -> Iterator[Json]:
    """The messages of a chat, in which the result of a call is one of its own."""
    if message.role == "assistant":
        yield _said(message.blocks)
        return
    texts = list[TextBlock]()
    for block in message.blocks:
        if isinstance(block, ToolResultBlock):
            if texts:
                yield {"role": message.role, "content": _text(texts)}
            texts = []
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content)}
        elif isinstance(block, TextBlock):
            texts.append(block)
    if texts or not message.blocks:
        yield {"role": message.role, "content": _text(texts)}


def _said(blocks: Sequence[Block]) -> Json:
    message: Json = {"role": "assistant", "content": _text([each for each in blocks if isinstance(each, TextBlock)])}
    if thoughts := [each.thinking for each in blocks if isinstance(each, ThinkingBlock)]:
        message["reasoning_content"] = "".join(thoughts)
    if calls := [each for each in blocks if isinstance(each, ToolUseBlock)]:
        message["tool_calls"] = [_call(each) for each in calls]
    return message


def _text(content: str | Sequence[TextBlock]) -> str | list[Json]:
    """A single block is its text, which every template takes."""
    if isinstance(content, str):
        return content
    if len(content) < 2:
        return "".join(block.text for block in content)
    return [{"type": "text", "text": block.text} for block in content]


def _call(block: ToolUseBlock) -> Json:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _tool(tool: Tool) -> Json:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function | {"strict": tool.strict}}


def _choice(choice: ToolChoice | None) -> Json:
    if choice is None:
        return {}
    words = {"auto": "auto", "any": "required", "none": "none"}
    named = {"type": "function", "function": {"name": choice.name}}
    return {
        "tool_choice": words.get(choice.type, named),
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
    }


def _response_format(fields: CountFields) -> Json | None:
    wanted = None if fields.output_config is None else fields.output_config.format
    if wanted is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": _SCHEMA_NAME, "schema": wanted.schema_}}
