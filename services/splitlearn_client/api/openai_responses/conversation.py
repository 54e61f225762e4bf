"""Translates a request of the Responses API into a chat, and an answer into a chat's message.

Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from splitlearn_client.api.json_body import strict_object
from splitlearn_client.api.openai_responses.fields import (
    CallItem,
    CallOutputItem,
    Content,
    Item,
    MessageItem,
    NamedFunction,
    ResponsesFields,
)
from splitlearn_client.api.places import Places
from splitlearn_client.api.schema import SamplingFields

Json = dict[str, Any]

_NAMES: Final = {
    "tools.N.function": "tools.N",
    "tool_choice.function.name": "tool_choice.name",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
}

_OF_CHATS: Final = {*SamplingFields.model_fields, "cache_salt", "structured_outputs", "top_logprobs"}
"""Fields that are those of chats."""


def chat_of(fields: ResponsesFields, before: Sequence[Json]) -> tuple[Json, Places]:
    """The body of the chat, and where its fields are in the request.

    Args:
        before: the messages that the request goes on with.
    """
    messages = [*before]
    places = ["previous_response_id"] * len(before)
    if fields.instructions is not None:
        # those of earlier requests do not hold any more
        messages.insert(0, {"role": "system", "content": fields.instructions})
        places.insert(0, "instructions")
    if isinstance(fields.input, str):
        messages.append({"role": "user", "content": fields.input})
        places.append("input")
    else:
        for number, message in _messages(fields.input):
            messages.append(message)
            places.append(f"input.{number}")
    body: Json = {"model": fields.model, "messages": messages, "parallel_tool_calls": fields.parallel_tool_calls}
    body |= {"tools": [_tool(each.model_dump(exclude_unset=True)) for each in fields.tools]}
    choice = fields.tool_choice
    body["tool_choice"] = (
        {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedFunction) else choice
    )
    body["max_completion_tokens"] = fields.max_output_tokens
    # as JSON: a member of logit_bias has a name, and no number
    body |= fields.model_dump(mode="json", by_alias=True, include=_OF_CHATS, exclude_unset=True)
    body["logprobs"] = fields.wants_logprobs
    body["response_format"] = _response_format(fields)
    body["chat_template_kwargs"] = fields.chat_template_kwargs
    body["reasoning_effort"] = fields.effort
    return body, Places("input", places, _NAMES)


def said_by(output: Iterable[Json]) -> Json | None:
    """The items of an answer as the assistant's message, for requests that go on; None if it said nothing.

    Calls that broke off are left out, as no template takes them.
    """
    message: Json = {"role": "assistant", "content": ""}
    for item in output:
        if item["type"] == "function_call":
            if strict_object(item["arguments"]) is not None:
                message.setdefault("tool_calls", []).append(_call(item["call_id"], item["name"], item["arguments"]))
            continue
        text = "".join(part["text"] for part in item["content"])
        name = "reasoning_content" if item["type"] == "reasoning" else "content"
        message[name] = message.get(name, "") + text
    return message if len(message) > 2 or message["content"] else None


def _messages(items: Sequence[Item]) -> list[tuple[int, Json]]:
    """The messages, each with the number of its first item. What the assistant thought, said and called is one."""
    found = list[tuple[int, Json]]()
    turn: Json | None = None
    for number, item in enumerate(items):
        if isinstance(item, CallOutputItem):
            turn = None
            result = {"role": "tool", "tool_call_id": item.call_id, "name": item.name}
            found.append((number, {**result, "content": _content(item.output)}))
            continue
        if isinstance(item, MessageItem) and item.role != "assistant":
            turn = None
            found.append((number, {"role": item.role, "content": _content(item.content)}))
            continue
        if turn is None or not _goes_on(turn, item):
            turn = {"role": "assistant", "content": ""}
            found.append((number, turn))
        if isinstance(item, CallItem):
            turn.setdefault("tool_calls", []).append(_call(item.call_id, item.name, item.arguments))
        elif isinstance(item, MessageItem):
            turn["content"] = _content(item.content)
        else:
            turn["reasoning_content"] = turn.get("reasoning_content", "") + item.text
    return found


def _goes_on(turn: Json, item: Item) -> bool:
    """Whether an item of the assistant's belongs to the message that its items before it make."""
    if isinstance(item, CallItem):
        return True
    return not turn["content"] and "tool_calls" not in turn


def _content(content: Content) -> str | list[Json]:
    return content if isinstance(content, str) else [{"type": "text", "text": part.text} for part in content]


def _call(identity: str, name: str, arguments: str) -> Json:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(flat: Json) -> Json:
    return {"type": "function", "function": {name: each for name, each in flat.items() if name != "type"}}


def _response_format(fields: ResponsesFields) -> Json | None:
    wanted = fields.format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": wanted.model_dump(by_alias=True, exclude_unset=True, exclude={"type"}),
    }
