"""Parses one streamed answer: the data of server-sent events in, times and counts out. No clock, no network."""

import json
from dataclasses import dataclass, field
from typing import Any

from splitlearn_cli.load.record import RequestFailure


@dataclass
class Answer:
    """The answer so far. Times are the caller's, in seconds.

    A chunk is an event with text; others (a role, an incomplete character) are not counted.
    """

    chunk_times: list[float] = field(default_factory=list)
    events: int = 0
    ended: float | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: RequestFailure | None = None

    @property
    def output_tokens(self) -> int:
        """The number in the server's usage, or else the number of chunks."""
        return len(self.chunk_times) if self.completion_tokens is None else self.completion_tokens

    def feed(self, data: str, now: float) -> None:
        """Adds one event; ignores events without data, and all events after a failure."""
        if self.failure is not None or not data:
            return
        self.events += 1
        if data == "[DONE]":
            self.ended = now
            return
        try:
            self._parse(json.loads(data), now)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.failure = RequestFailure("unreadable event", f"the stream holds {data[:80]!r}")

    def close(self) -> None:
        """Ends the answer; an incomplete stream is a failure. Call it at the end of the response."""
        if self.failure is None and self.ended is None:
            if self.events:
                self.failure = RequestFailure("incomplete", "the stream stopped before its end")
            else:
                self.failure = RequestFailure("not a stream", "the response has no server-sent events")

    def _parse(self, event: dict[str, Any], now: float) -> None:
        if error := event.get("error"):
            message = error.get("message", error) if isinstance(error, dict) else error
            self.failure = RequestFailure("error event", str(message))
            return
        if usage := event.get("usage"):
            self.prompt_tokens = int(usage["prompt_tokens"])
            self.completion_tokens = int(usage["completion_tokens"])
        for choice in event.get("choices", ()):
            if _text(choice):
                self.chunk_times.append(now)
            if reason := choice.get("finish_reason"):
                self.finish_reason = str(reason)
                # some servers end without [DONE]; if it comes, it is later and overwrites this
                self.ended = now


def _text(choice: dict[str, Any]) -> str:
    delta = choice.get("delta") or {}
    # a model's reasoning has one of two other names
    found = choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    return str(found or "")
