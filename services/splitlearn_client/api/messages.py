"""What an assistant's message has in it: all text is content, or it is taken apart.

Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.answer_parts import AnswerParts
from splitlearn_client.parsing.dialect import Reading
from splitlearn_client.parsing.events import Arguments, CallBegun, Content, Event, Reasoning

Json = dict[str, Any]
Told = tuple[TokenDelta, Json]
"""A piece of an answer, and what its message has of it."""
WholeMessage = tuple[Json, str | None]
"""The message of a whole answer, and why it ended."""


class StreamedMessage:
    """One answer's message, piece by piece.

    Args:
        reading: how it is taken apart; None if all of it is content.
    """

    def __init__(self, reading: Reading | None) -> None:
        self._is_plain = reading is None
        self._parts = AnswerParts(reading)
        self._untold_ids: tuple[int, ...] = ()

    def add(self, delta: TokenDelta) -> list[Told]:
        """The pieces that are certain with this one; none if nothing is. The last one has its finish reason."""
        if self._is_plain:
            return [(delta, {"content": delta.text})]
        told = _pieces(self._parts.add(delta))
        self._untold_ids += delta.token_ids
        if not told and delta.finish_reason is None and not delta.logprobs:
            return []
        told = told or [{}]
        inner = replace(delta, logprobs=(), finish_reason=None, token_ids=(), stop_reason=None)
        pieces = [(inner, fields) for fields in told]
        pieces[0] = (replace(inner, logprobs=delta.logprobs, token_ids=self._untold_ids), told[0])
        self._untold_ids = ()
        reason = self._parts.finish_reason(delta)
        last = replace(pieces[-1][0], finish_reason=reason, stop_reason=delta.stop_reason)
        pieces[-1] = (last, told[-1])
        return pieces


def whole_message(deltas: Sequence[TokenDelta], reading: Reading | None) -> WholeMessage:
    """The message, taken apart as `reading` says."""
    text, last = "".join(delta.text for delta in deltas), deltas[-1]
    if reading is None:
        return {"content": text}, last.finish_reason
    parts = AnswerParts(reading, holds=True)
    events = parts.add(replace(last, text=text))
    calls = _calls(events)
    content = "".join(event.text for event in events if isinstance(event, Content))
    reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
    message: Json = {"content": content if content or not calls else None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message, parts.finish_reason(last)


def _calls(events: Iterable[Event]) -> list[Json]:
    calls = list[Json]()
    for event in events:
        if isinstance(event, CallBegun):
            function = {"name": event.name, "arguments": ""}
            calls.append({"id": event.identity, "type": "function", "function": function})
        elif isinstance(event, Arguments):
            calls[event.index]["function"]["arguments"] += event.text
    return calls


def _pieces(events: Iterable[Event]) -> list[Json]:
    """The events as they come in a stream, each beginning of a call in a piece of its own."""
    pieces, previous = list[Json](), None
    for event in events:
        kind = (type(event), event.index if isinstance(event, Arguments) else None)
        if isinstance(event, CallBegun):
            function = {"name": event.name, "arguments": ""}
            call = {"index": event.index, "id": event.identity, "type": "function", "function": function}
            pieces.append({"tool_calls": [call]})
        elif isinstance(event, Arguments):
            if kind == previous:
                pieces[-1]["tool_calls"][0]["function"]["arguments"] += event.text
            else:
                pieces.append({"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]})
        else:
            name = "content" if isinstance(event, Content) else "reasoning_content"
            if kind == previous:
                pieces[-1][name] += event.text
            else:
                pieces.append({name: event.text})
        previous = kind
    return pieces
