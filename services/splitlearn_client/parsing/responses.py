"""Takes an answer apart by what comes with a tokenizer: a response template, which transformers reads, or the older
response schema.

Pure: what reads them is given.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Protocol

from splitlearn_client.parsing.events import Arguments, CallBegun, Content, Event, Reasoning

_REASONING: Final = frozenset({"thinking", "reasoning", "reasoning_content"})
_CALLS: Final = "tool_calls"


class AnswerMismatch(Exception):
    """The answer is not what the template or the schema describes."""


class ResponseStream(Protocol):
    """Reads one answer by a response template, in the events of transformers' `ResponseParser`."""

    region: str
    """Which the prompt has opened; empty if none, or if nothing was fed."""

    def feed(self, text: str) -> list[dict[str, Any]]:
        """Raises AnswerMismatch."""
        ...

    def finish(self) -> list[dict[str, Any]]:
        """Raises AnswerMismatch."""
        ...


class TemplateReader(Protocol):
    """Reads answers by a response template."""

    @property
    def threads(self) -> Executor | None:
        """Where to read them, as that may take long; None if anywhere."""
        ...

    def stream(self, prompt: str, tools: Sequence[Mapping[str, Any]]) -> ResponseStream:
        """What reads an answer to a prompt, with these tools."""
        ...


class SchemaReader(Protocol):
    """Reads whole answers by a response schema."""

    @property
    def threads(self) -> Executor | None:
        """As in `TemplateReader`."""
        ...

    def read(self, text: str) -> Any:
        """What the schema finds. Raises AnswerMismatch."""
        ...


class ResponseParser:
    """Reads one answer. A call is told when it is complete; where the template fails, the rest is content.

    Args:
        tools: the parameters' schema of each tool that may be called, by name.
        new_identity: makes the id of a call.
    """

    def __init__(self, stream: ResponseStream, tools: Mapping[str, Any], new_identity: Callable[[], str]) -> None:
        self._stream: ResponseStream | None = stream
        self._tools = tools
        self._new_identity = new_identity
        self._n_calls = 0
        self._region: str | None = None
        """None before anything was read: the prompt may have opened one."""
        self._held = ""
        """The text of a call that is not complete, and white space that may be the last of its region."""
        self._unread = ""
        """What was fed behind the last text that the template gave."""
        self._has_said = False
        """Whether the region has text that is no white space."""

    def feed(self, text: str) -> list[Event]:
        return self._told(text, lambda stream: stream.feed(text)) if text else []

    def finish(self, *, is_cut_off: bool) -> list[Event]:
        events = self._told("", lambda stream: stream.finish())
        rest = [Content(self._held)] if self._held.strip() else []
        self._held = ""
        return events + rest

    def _told(self, text: str, step: Callable[[ResponseStream], list[dict[str, Any]]]) -> list[Event]:
        if self._stream is None:
            return [Content(text)] if text else []
        self._unread += text
        try:
            read = step(self._stream)
        except AnswerMismatch:
            # the model writes what its template does not read
            self._stream = None
            rest = self._held + self._unread if text or self._held else ""
            self._held = ""
            return [Content(rest)] if rest else []
        self._region = self._stream.region if self._region is None else self._region
        return [event for each in read for event in self._events(each)]

    def _events(self, read: Mapping[str, Any]) -> list[Event]:
        if read["type"] == "region_open":
            self._region, self._held, self._has_said = read["field"], "", False
        elif read["type"] == "region_chunk":
            self._unread = self._unread.partition(read["text"])[2]
            return self._text(read["text"])
        elif read["field"] == _CALLS:
            value = read["value"]
            return self._calls(value if isinstance(value, list) else [value])
        else:
            self._held = ""
        return []

    def _text(self, text: str) -> list[Event]:
        self._held += text
        if self._region == _CALLS:
            return []
        if not self._has_said:
            self._held = self._held.lstrip()
        told = self._held.rstrip()
        self._held = self._held[len(told) :]
        self._has_said |= bool(told)
        if not told:
            return []
        return [Reasoning(told) if self._region in _REASONING else Content(told)]

    def _calls(self, values: list[Any]) -> list[Event]:
        raw, self._held = self._held, ""
        events = calls_of(values, self._tools, self._new_identity, self._n_calls)
        if not events:
            return [Content(raw)] if raw else []
        self._n_calls += len(values)
        return events


class SchemaParser:
    """Reads one answer by a response schema, which needs all of it: nothing is told before its end. Where the schema
    does not fit, all is content.

    Args:
        tools, new_identity: as `ResponseParser`.
    """

    def __init__(self, schema: SchemaReader, tools: Mapping[str, Any], new_identity: Callable[[], str]) -> None:
        self._schema = schema
        self._tools = tools
        self._new_identity = new_identity
        self._texts = list[str]()

    def feed(self, text: str) -> list[Event]:
        self._texts.append(text)
        return []

    def finish(self, *, is_cut_off: bool) -> list[Event]:
        text = "".join(self._texts)
        return self._read(text) or ([Content(text)] if text else [])

    def _read(self, text: str) -> list[Event]:
        try:
            message = self._schema.read(text)
        except AnswerMismatch:
            return []
        if not isinstance(message, dict):
            return []
        thought = [message[name] for name in sorted(_REASONING & message.keys()) if isinstance(message[name], str)]
        said = message.get("content")
        calls = message.get(_CALLS) or []
        events: list[Event] = [Reasoning(each) for each in thought if each]
        if isinstance(said, str) and said:
            events.append(Content(said))
        if not calls:
            return events
        called = calls_of(calls, self._tools, self._new_identity, 0) if isinstance(calls, list) else []
        return [*events, *called] if called else []


def calls_of(
    values: list[Any], tools: Mapping[str, Any], new_identity: Callable[[], str], first_index: int
) -> list[Event]:
    """The calls that a message lists; none if one of them is no call of these tools, or cannot be written."""
    events = list[Event]()
    for index, value in enumerate(values, first_index):
        function = value.get("function") if isinstance(value, dict) else None
        if not isinstance(function, dict) or function.get("name") not in tools:
            return []
        arguments = function.get("arguments") or {}
        try:
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        except RecursionError:
            return []
        events += [CallBegun(index, new_identity(), function["name"]), Arguments(index, text)]
    return events
