"""One answer in the events and the object of the Messages API.

Pure.
"""

from typing import Any, Final

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.answer_parts import AnswerParts
from splitlearn_client.api.json_body import strict_object
from splitlearn_client.api.replies import measurements
from splitlearn_client.parsing.dialect import Reading
from splitlearn_client.parsing.events import Arguments, CallBegun, Content, Event, Reasoning
from splitlearn_client.report import Report

Json = dict[str, Any]

_KINDS: Final = {Content: "text", Reasoning: "thinking"}
_EMPTY_BLOCKS: Final[dict[str, Json]] = {
    "text": {"type": "text", "text": ""},
    # nobody checks it
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
_DELTAS: Final = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""By the type of a block: the type of its deltas, and what they call their text."""
_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageTelling:
    """Tells one answer.

    Args:
        identity: the message's id.
        reading: how the answer is taken apart.
        streams: whether a call is told of before it is complete.
    """

    def __init__(self, identity: str, model: str, reading: Reading | None, *, streams: bool) -> None:
        self._message: Json = {
            "id": identity,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._parts = AnswerParts(reading, holds=not streams)
        self._blocks = list[Json]()
        self._texts = list[str]()
        self._is_open = False
        self._stop: Json = {}

    def begin(self, report: Report) -> list[Json]:
        return [{"type": "message_start", "message": {**self._message, "usage": _usage(report, n_output=0)}}]

    def add(self, delta: TokenDelta) -> list[Json]:
        told = [each for event in self._parts.add(delta) for each in self._piece(event)]
        reason = self._parts.finish_reason(delta)
        if reason is not None:
            is_text = reason == "stop" and isinstance(delta.stop_reason, str)
            self._stop = {
                "stop_reason": "stop_sequence" if is_text else _REASONS[reason],
                "stop_sequence": delta.stop_reason if is_text else None,
            }
        return told

    def end(self, report: Report) -> list[Json]:
        told = self._close()
        usage = _usage(report, n_output=report.completion_tokens)
        last = {"type": "message_delta", "delta": self._stop, "usage": usage, "splitlearn": measurements(report)}
        return [*told, last, {"type": "message_stop"}]

    def whole(self, report: Report) -> Json:
        usage = _usage(report, n_output=report.completion_tokens)
        return {**self._message, "content": self._blocks, **self._stop, "usage": usage} | {
            "splitlearn": measurements(report)
        }

    def _piece(self, event: Event) -> list[Json]:
        if isinstance(event, CallBegun):
            return self._begin({"type": "tool_use", "id": event.identity, "name": event.name, "input": {}})
        told = list[Json]()
        if not isinstance(event, Arguments) and self._kind != _KINDS[type(event)]:
            told = self._begin(dict(_EMPTY_BLOCKS[_KINDS[type(event)]]))
        if not event.text:
            return told
        self._texts.append(event.text)
        kind, name = _DELTAS[self._blocks[-1]["type"]]
        return [*told, self._event("content_block_delta", delta={"type": kind, name: event.text})]

    @property
    def _kind(self) -> str | None:
        """Of the open block."""
        return str(self._blocks[-1]["type"]) if self._is_open else None

    def _begin(self, block: Json) -> list[Json]:
        told = self._close()
        self._blocks.append(block)
        self._is_open = True
        return [*told, self._event("content_block_start", content_block={**block})]

    def _close(self) -> list[Json]:
        """Completes the open block, if there is one."""
        if not self._is_open:
            return []
        block, text = self._blocks[-1], "".join(self._texts)
        self._is_open, self._texts = False, []
        if block["type"] == "tool_use":
            # a call that was cut off has none
            block["input"] = strict_object(text) or {}
        else:
            block[block["type"]] = text
        return [self._event("content_block_stop")]

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "index": len(self._blocks) - 1, **fields}


def _usage(report: Report, *, n_output: int) -> Json:
    """Token counts, of which those of the prompt are told apart by whether they were cached."""
    return {
        "input_tokens": report.prompt_tokens - report.reused_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": report.reused_tokens,
        "output_tokens": n_output,
    }
