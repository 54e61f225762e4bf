"""The order of events, and what they and the message say."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.anthropic.telling import MessageTelling
from splitlearn_client.parsing.dialect import Dialect, Prefix
from splitlearn_client.parsing.forms.hermes import Hermes
from splitlearn_client.parsing.thoughts import THOUGHTS
from splitlearn_client.report import Report

DIALECT = Dialect(Hermes(), THOUGHTS["think"], new_identity=lambda: "call_1")
READING = DIALECT.reading({"f": {"type": "object"}}, Prefix())
THOUGHT, SAID = ["<think>\n", "why", "?", "\n</think>\n"], ["So", ".", "\n"]
CALLED = ["<tool_call>\n", '{"name": "f", "arguments": {"a": ', "1}}", "\n</tool_call>"]


def sent(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events as they are at this moment."""
    copied: list[dict[str, Any]] = json.loads(json.dumps(events))
    return copied


class Told:
    """An answer that was told."""

    def __init__(
        self, texts: Sequence[str], reason: str = "stop", stop: str | int | None = None, *, streams: bool = True
    ) -> None:
        telling = MessageTelling("msg_1", "tiny", READING, streams=streams)
        report = Report(prompt_tokens=7, completion_tokens=len(texts), reused_tokens=4)
        self.events = sent(telling.begin(report))
        for number, text in enumerate(texts, start=1):
            is_last = number == len(texts)
            ending = {"finish_reason": reason, "stop_reason": stop} if is_last else {}
            self.events += sent(telling.add(TokenDelta(text, **ending)))  # type: ignore[arg-type]
        self.events += sent(telling.end(report))
        self.whole = telling.whole(report)

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def joined(self) -> list[dict[str, Any]]:
        """The blocks as a client puts them together; raises if an event is at a wrong place."""
        blocks, is_open, texts = list[dict[str, Any]](), False, list[str]()
        assert self.events[0]["message"]["content"] == []
        for event in self.events[1:-2]:
            if event["type"] == "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"])
                is_open, texts = True, []
            assert is_open
            assert event["index"] == len(blocks) - 1
            if event["type"] == "content_block_delta":
                kind, text = event["delta"].values()
                assert (
                    kind
                    == {"text": "text", "thinking": "thinking", "tool_use": "input_json"}[blocks[-1]["type"]] + "_delta"
                )
                texts.append(text)
            if event["type"] == "content_block_stop":
                is_open = False
                kind, said = blocks[-1]["type"], "".join(texts)
                blocks[-1] |= {"input": json.loads(said or "{}")} if kind == "tool_use" else {kind: said}
        assert not is_open
        return blocks


def test_events_come_in_the_order_of_anthropic() -> None:
    told = Told([*THOUGHT, *SAID, *CALLED])
    n = len([each for each in told.events if each.get("delta", {}).get("type") == "input_json_delta"])
    assert n >= 1

    def block(deltas: int) -> list[str]:
        return ["content_block_start", *["content_block_delta"] * deltas, "content_block_stop"]

    assert told.kinds == ["message_start", *block(2), *block(2), *block(n), "message_delta", "message_stop"]


@pytest.mark.parametrize("texts", [SAID, [*THOUGHT, *SAID], [*SAID, *CALLED, *CALLED], [""], [*THOUGHT, *CALLED]])
def test_the_blocks_of_a_stream_are_those_of_the_whole_message(texts: list[str]) -> None:
    told = Told(texts)
    assert told.joined() == told.whole["content"] == Told(texts, streams=False).whole["content"]


def test_the_message_has_what_was_said_and_spent() -> None:
    told = Told([*THOUGHT, *SAID, *CALLED])
    assert told.whole["content"] == [
        {"type": "thinking", "thinking": "why?", "signature": ""},
        {"type": "text", "text": "So."},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
    ]
    # those of the cache do not count among the others
    spent = {"input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 11}
    assert told.whole["usage"] == spent
    assert told.events[-2]["usage"] == spent
    assert told.events[0]["message"]["usage"] == {**spent, "output_tokens": 0}


@pytest.mark.parametrize(
    ("texts", "reason", "stop", "told"),
    [
        (SAID, "stop", None, ("end_turn", None)),
        (SAID, "length", None, ("max_tokens", None)),
        (SAID, "stop", "END", ("stop_sequence", "END")),
        (SAID, "stop", 7, ("end_turn", None)),
        (CALLED, "stop", None, ("tool_use", None)),
        (CALLED, "length", None, ("max_tokens", None)),
    ],
)
def test_why_it_ended_has_the_words_of_anthropic(
    texts: list[str], reason: str, stop: str | int | None, told: tuple[str, str | None]
) -> None:
    found = Told(texts, reason, stop)
    assert (found.whole["stop_reason"], found.whole["stop_sequence"]) == told
    assert found.events[-2]["delta"] == {"stop_reason": told[0], "stop_sequence": told[1]}
    assert found.events[0]["message"]["stop_reason"] is None


@pytest.mark.parametrize("arguments", ['{"a": ', '{"a": 1, "a": 2}'])
def test_a_call_that_no_client_could_read_has_no_input_in_the_whole_message(arguments: str) -> None:
    told = Told(["<tool_call>\n", f'{{"name": "f", "arguments": {arguments}'], "length")
    assert [(block["type"], block["input"]) for block in told.whole["content"]] == [("tool_use", {})]
    assert told.whole["stop_reason"] == "max_tokens"
