"""Tools and their calls for a chat template, whose forms of them differ.

Pure.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Message = Mapping[str, Any]

# what templates call reasoning
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
# nine characters: some templates refuse other ids
_IDENTITY: Final = "zqcall000"


@dataclass(frozen=True)
class WrittenCall:
    """What a chat template writes for a call of a tool.

    Attributes:
        name: of the tool.
        before: the text before the answer.
        text: the answer, without what ends it.
    """

    name: str
    before: str
    text: str


def reasoning_names(source: str) -> tuple[str, ...]:
    """The names by which a template reads the reasoning of a message."""
    return tuple(name for name in _REASONING if re.search(rf"\.{name}\b|['\"]{name}['\"]", source))


def with_reasoning(message: Message, names: Sequence[str]) -> Message:
    """The message with its reasoning under these names."""
    reasoning = message.get("reasoning_content")
    if reasoning is None:
        return message
    return {**message, **dict.fromkeys(names, reasoning)}


def with_text_arguments(message: Message) -> Message:
    """The message with the arguments of its calls as text."""

    def as_text(function: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}

    return _with_functions(message, as_text)


def with_called_names(message: Message, names: Iterator[str]) -> Message:
    """The message with other names of the functions that it calls."""
    return _with_functions(message, lambda function: {**function, "name": next(names)})


def _with_functions(message: Message, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [{**call, "function": change(call["function"])} for call in calls]}


def n_calls(message: Message) -> int:
    """How many functions the message calls."""
    return len(message.get("tool_calls") or ())


def probe_call() -> Message:
    """An assistant's message that calls a function."""
    function = {"name": "zqcalled", "arguments": {"zqkey": "zqvalue"}}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": _IDENTITY, "type": "function", "function": function}],
    }


def shows_arguments(text: str) -> bool:
    """Whether the arguments of `probe_call` are in the text, and not as Python writes them."""
    return "zqkey" in text and "{'zqkey'" not in text


def probe_result(message: Message) -> Message:
    """The message as the result of that call."""
    return {**message, "tool_call_id": _IDENTITY, "name": "zqcalled"}


def probe_tool(name: str = "zqtool") -> Mapping[str, Any]:
    """A tool."""
    parameters = {"type": "object", "properties": {"word": {"type": "string", "description": "A word."}}}
    return {"type": "function", "function": {"name": name, "description": "Says a word.", "parameters": parameters}}
