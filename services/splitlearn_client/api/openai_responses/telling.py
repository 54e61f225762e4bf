"""One answer in the events and the object of the Responses API.

Pure.
"""

from collections.abc import Callable
from typing import Any, Final

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.answer_parts import AnswerParts
from splitlearn_client.api.openai_responses.logprobs import TextLogprobs
from splitlearn_client.api.replies import measurements
from splitlearn_client.parsing.dialect import Reading
from splitlearn_client.parsing.events import Arguments, CallBegun, Content, Event, Reasoning
from splitlearn_client.report import Report

Json = dict[str, Any]

_KINDS: Final = {Content: "message", Reasoning: "reasoning"}
_EMPTY_PARTS: Final[dict[str, Json]] = {
    "message": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    "reasoning": {"type": "reasoning_text", "text": ""},
}


class _Open:
    """An item that is not complete."""

    def __init__(self, item: Json, index: int) -> None:
        self.item = item
        self.index = index
        self.texts = list[str]()
        self.logprobs = list[Json]()

    @property
    def kind(self) -> str:
        return str(self.item["type"])

    @property
    def at(self) -> Json:
        """What events say of where they belong."""
        return {"item_id": self.item["id"], "output_index": self.index}


class ResponseTelling:
    """Tells one answer.

    Args:
        response: the object without what is known at the end only; its status is "in_progress".
        reading: how the answer is taken apart.
        new_identity: makes the id of an item, of a prefix.
        finish: called with the object once the answer is complete, before that is told.
        streams: whether a call is told of before it is complete.
    """

    def __init__(
        self,
        response: Json,
        reading: Reading | None,
        new_identity: Callable[[str], str],
        finish: Callable[[Json], None],
        *,
        streams: bool,
    ) -> None:
        self._response = response
        self._parts = AnswerParts(reading, holds=not streams)
        self._new_identity = new_identity
        self._finish = finish
        self._n_events = 0
        self._open: _Open | None = None
        self._output = list[Json]()
        self._reason: str | None = None
        self._n_reasoning = 0
        self._logprobs = TextLogprobs()

    def begin(self, report: Report) -> list[Json]:
        names = ("response.created", "response.in_progress")
        return [self._event(name, response={**self._response, "output": []}) for name in names]

    def add(self, delta: TokenDelta) -> list[Json]:
        told = list[Json]()
        self._logprobs.add(delta.logprobs)
        events = self._parts.add(delta)
        for event in events:
            told += self._piece(event)
        if events and not isinstance(events[-1], Content):
            self._logprobs.forget()
        if self._open is not None and self._open.kind == "reasoning":
            self._n_reasoning += delta.n_tokens
        self._reason = self._parts.finish_reason(delta)
        return told

    def end(self, report: Report) -> list[Json]:
        is_cut_off = self._reason == "length"
        told = self._close("incomplete" if is_cut_off else "completed")
        status = "incomplete" if is_cut_off else "completed"
        reason = {"reason": "max_output_tokens"} if is_cut_off else None
        self._response |= {"status": status, "incomplete_details": reason, "output": self._output}
        self._response |= {"usage": self._usage(report), "splitlearn": measurements(report)}
        self._finish(self._response)
        return [*told, self._event(f"response.{status}", response=self._response)]

    def whole(self, report: Report) -> Json:
        return self._response

    def failed(self, body: Json) -> Json:
        """The event in place of an error's body."""
        error = {"code": body["error"]["code"], "message": body["error"]["message"]}
        failed = {**self._response, "status": "failed", "error": error, "output": self._output}
        return self._event("response.failed", response=failed)

    def _piece(self, event: Event) -> list[Json]:
        if isinstance(event, CallBegun):
            told = self._begin("fc", "function_call", call_id=event.identity, name=event.name, arguments="")
        elif isinstance(event, Arguments) or self._kind == _KINDS[type(event)]:
            told = []
        elif isinstance(event, Content):
            told = self._begin_text("msg", "message", role="assistant")
        else:
            told = self._begin_text("rs", "reasoning", summary=[])
        if isinstance(event, CallBegun) or self._open is None or not event.text:
            return told
        logprobs = self._logprobs.of(event.text) if isinstance(event, Content) else []
        self._open.texts.append(event.text)
        self._open.logprobs += logprobs
        return [*told, self._delta(self._open, event.text, logprobs)]

    @property
    def _kind(self) -> str | None:
        return None if self._open is None else self._open.kind

    def _begin(self, prefix: str, kind: str, **fields: Any) -> list[Json]:
        told = self._close("completed")
        item = {"id": self._new_identity(prefix), "type": kind, "status": "in_progress", **fields}
        self._open = _Open(item, len(self._output))
        return [*told, self._event("response.output_item.added", output_index=self._open.index, item={**item})]

    def _begin_text(self, prefix: str, kind: str, **fields: Any) -> list[Json]:
        told = self._begin(prefix, kind, content=[], **fields)
        if self._open is None:
            return told
        part = self._event(
            "response.content_part.added", **self._open.at, content_index=0, part=dict(_EMPTY_PARTS[kind])
        )
        return [*told, part]

    def _delta(self, item: _Open, text: str, logprobs: list[Json]) -> Json:
        if item.kind == "function_call":
            return self._event("response.function_call_arguments.delta", **item.at, delta=text)
        name = f"response.{_EMPTY_PARTS[item.kind]['type']}.delta"
        return self._event(name, **item.at, content_index=0, delta=text, **_beside(item.kind, logprobs))

    def _close(self, status: str) -> list[Json]:
        """Completes the open item, if there is one."""
        if self._open is None:
            return []
        closed, text = self._open, "".join(self._open.texts)
        self._open = None
        if closed.kind == "function_call":
            closed.item["arguments"] = text
            called = {"name": closed.item["name"], "arguments": text}
            told = [self._event("response.function_call_arguments.done", **closed.at, **called)]
        else:
            beside = _beside(closed.kind, closed.logprobs)
            part = {**_EMPTY_PARTS[closed.kind], "text": text, **beside}
            closed.item["content"] = [part]
            at = {**closed.at, "content_index": 0}
            name = f"response.{part['type']}.done"
            told = [
                self._event(name, **at, text=text, **beside),
                self._event("response.content_part.done", **at, part=part),
            ]
        closed.item["status"] = status
        self._output.append(closed.item)
        return [*told, self._event("response.output_item.done", output_index=closed.index, item=closed.item)]

    def _event(self, kind: str, **fields: Any) -> Json:
        number, self._n_events = self._n_events, self._n_events + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _usage(self, report: Report) -> Json:
        return {
            "input_tokens": report.prompt_tokens,
            "input_tokens_details": {"cached_tokens": report.reused_tokens, "cache_write_tokens": 0},
            "output_tokens": report.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._n_reasoning},
            "total_tokens": report.prompt_tokens + report.completion_tokens,
        }


def _beside(kind: str, logprobs: list[Json]) -> Json:
    """What events and parts of a text have beside it."""
    return {"logprobs": logprobs} if kind == "message" else {}
