"""The order of events, and what they and the object say; the `openai` package reads all of them."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from splitlearn_client.answer import Alternative, TokenDelta, TokenLogprob
from splitlearn_client.api.openai_responses.telling import ResponseTelling
from splitlearn_client.parsing.dialect import Dialect, Prefix
from splitlearn_client.parsing.forms.hermes import Hermes
from splitlearn_client.parsing.thoughts import THOUGHTS
from splitlearn_client.report import Report

DIALECT = Dialect(Hermes(), THOUGHTS["think"], new_identity=lambda: "call_1")
READING = DIALECT.reading({"f": {"type": "object"}}, Prefix())
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
THOUGHT, SAID = ["<think>\n", "why", "?", "\n</think>\n"], ["So", ".", "\n"]
CALLED = ["<tool_call>\n", '{"name": "f", "arguments": {"a": ', "1}}", "\n</tool_call>"]
BEFORE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "model": "tiny",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
BEGUN = ["response.created", "response.in_progress"]


def text_events(kind: str, n: int) -> list[str]:
    return [
        "response.output_item.added",
        "response.content_part.added",
        *[f"response.{kind}.delta"] * n,
        f"response.{kind}.done",
        "response.content_part.done",
        "response.output_item.done",
    ]


def call_events(n: int) -> list[str]:
    return [
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * n,
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]


def sent(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events as they are at this moment."""
    copied: list[dict[str, Any]] = json.loads(json.dumps(events))
    return copied


class Told:
    """An answer that was told."""

    def __init__(self, texts: Sequence[str], reason: str = "stop", *, streams: bool = True) -> None:
        self.finished = list[dict[str, Any]]()
        numbers = itertools.count()
        self.telling = ResponseTelling(
            dict(BEFORE), READING, lambda prefix: f"{prefix}_{next(numbers)}", self._finish, streams=streams
        )
        self.report = Report(prompt_tokens=7, completion_tokens=len(texts), reused_tokens=4)
        self.events = sent(self.telling.begin(self.report))
        for number, text in enumerate(texts, start=1):
            last = reason if number == len(texts) else None
            self.events += sent(self.telling.add(TokenDelta(text, finish_reason=last)))

    def end(self) -> "Told":
        self.events += sent(self.telling.end(self.report))
        return self

    def _finish(self, response: dict[str, Any]) -> None:
        self.finished.append(response)
        response["store"] = True

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def last(self) -> dict[str, Any]:
        response: dict[str, Any] = self.events[-1]["response"]
        return response


def test_the_events_of_reasoning_text_and_a_call_come_in_the_order_of_openai() -> None:
    told = Told([*THOUGHT, *SAID, *CALLED]).end()
    n = told.kinds.count("response.function_call_arguments.delta")
    assert n >= 1
    assert told.kinds == [
        *BEGUN,
        *text_events("reasoning_text", 2),
        *text_events("output_text", 2),
        *call_events(n),
        "response.completed",
    ]
    assert [event["sequence_number"] for event in told.events] == list(range(len(told.events)))


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("texts", [SAID, [*THOUGHT, *CALLED], [*SAID, *CALLED, *CALLED], [""], CALLED[:2], THOUGHT[:2]])
def test_the_openai_package_reads_every_event_and_its_deltas_join_to_the_items(texts: list[str], reason: str) -> None:
    told = Told(texts, reason).end()
    items: dict[int, str] = {}
    for event in told.events:
        read = EVENTS.validate_python(event)
        assert read.type == event["type"]
        if event["type"].endswith(".delta"):
            items[event["output_index"]] = items.get(event["output_index"], "") + event["delta"]
    whole = Response.model_validate(told.last)
    for number, item in enumerate(told.last["output"]):
        said = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert items.get(number, "") == said
    assert whole.status == ("incomplete" if reason == "length" else "completed")


def test_events_say_which_item_they_belong_to() -> None:
    told = Told([*THOUGHT, *SAID, *CALLED]).end()
    added = [event for event in told.events if event["type"] == "response.output_item.added"]
    assert [event["item"]["type"] for event in added] == ["reasoning", "message", "function_call"]
    assert [event["output_index"] for event in added] == [0, 1, 2]
    assert all(event["item"]["status"] == "in_progress" for event in added)
    for event in told.events:
        if "item_id" in event:
            assert event["item_id"] == added[event["output_index"]]["item"]["id"]
    assert [item["id"] for item in told.last["output"]] == [event["item"]["id"] for event in added]


def test_the_object_has_what_was_said_and_spent() -> None:
    told = Told([*THOUGHT, *SAID, *CALLED]).end()
    reasoning, message, call = told.last["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "why?"}]
    assert message["content"] == [{"type": "output_text", "text": "So.", "annotations": [], "logprobs": []}]
    assert (call["call_id"], call["name"], json.loads(call["arguments"])) == ("call_1", "f", {"a": 1})
    usage = told.last["usage"]
    assert usage["input_tokens"] == 7
    assert usage["input_tokens_details"]["cached_tokens"] == 4
    assert usage["output_tokens"] == 11
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < 11
    assert usage["total_tokens"] == 18


def test_an_answer_that_was_cut_off_is_incomplete_with_its_last_item() -> None:
    told = Told([*THOUGHT, "So"], "length").end()
    assert told.kinds[-1] == "response.incomplete"
    assert told.last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in told.last["output"]] == ["completed", "incomplete"]


def test_a_whole_reply_has_calls_that_are_complete_only() -> None:
    begun = [*SAID, *CALLED[:2]]
    assert [item["type"] for item in Told(begun, "length").end().last["output"]] == ["message", "function_call"]
    held = Told(begun, "stop", streams=False).end()
    assert held.telling.whole(held.report)["output"][0]["type"] == "message"


def test_it_is_kept_before_its_end_is_told_and_what_became_of_that_is_told() -> None:
    told = Told(SAID)
    assert told.finished == []
    told.end()
    assert [each["id"] for each in told.finished] == ["resp_1"]
    assert told.last["store"] is True


def test_a_failure_is_an_event_with_what_was_complete_by_then() -> None:
    told = Told([*THOUGHT, "So"])
    told.report.completion_tokens = 0
    failed = told.telling.failed({"error": {"message": "the trunk failed", "code": "trunk_failed", "type": "x"}})
    assert EVENTS.validate_python({**failed, "response": {**failed["response"], "error": None}}).type == failed["type"]
    assert failed["type"] == "response.failed"
    assert failed["sequence_number"] == len(told.events)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "trunk_failed", "message": "the trunk failed"}
    assert [item["type"] for item in failed["response"]["output"]] == ["reasoning"]
    assert told.finished == []


def scored(text: str, *, reason: str | None = None, entries: Sequence[str] | None = None) -> TokenDelta:
    """A delta with a log-probability for each token whose text is certain with it."""
    tops = (Alternative(1, "x", b"x", -2.0),)
    found = [TokenLogprob(5, each, each.encode(), -0.5, 0, tops) for each in ([text] if entries is None else entries)]
    return TokenDelta(text, tuple(found), reason)


def test_a_text_has_the_log_probabilities_of_its_tokens_and_no_others() -> None:
    telling = ResponseTelling(dict(BEFORE), READING, lambda prefix: prefix, lambda _: None, streams=True)
    deltas = [scored(text) for text in [*THOUGHT, "So", "<", "b", *CALLED]]
    # the last token ends the answer and is no text
    deltas.append(scored("", reason="stop"))
    events = sent([event for delta in deltas for event in telling.add(delta)] + telling.end(Report()))
    for event in events:
        EVENTS.validate_python(event)
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [[each["token"] for each in delta] for delta in told] == [["So"], ["<", "b"]]
    _, message, _ = events[-1]["response"]["output"]
    top = {"token": "x", "logprob": -2.0, "bytes": [120]}
    first = {"token": "So", "logprob": -0.5, "bytes": [83, 111], "top_logprobs": [top]}
    assert message["content"][0]["logprobs"] == [each for delta in told for each in delta]
    assert message["content"][0]["logprobs"][0] == first
    (done,) = [event for event in events if event["type"] == "response.output_text.done"]
    assert done["logprobs"] == message["content"][0]["logprobs"]


def test_tokens_that_were_held_back_are_told_with_the_text_that_they_become() -> None:
    telling = ResponseTelling(dict(BEFORE), None, lambda prefix: prefix, lambda _: None, streams=True)
    deltas = [scored("", entries=[""]), scored("ab", entries=["a", "b"]), scored("", reason="stop", entries=[])]
    events = [event for delta in deltas for event in telling.add(delta)] + telling.end(Report())
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [each["token"] for each in delta["logprobs"]] == ["", "a", "b"]
