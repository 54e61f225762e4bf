"""Answers that are read by a tokenizer's response template, with transformers' own reader."""

from pathlib import Path
from typing import Any

import pytest

from splitlearn_client.parsing.dialect import Dialect, Prefix, dialect_of
from splitlearn_client.tokenizer import ChatTokenizer
from support.taken_apart import called, joined, said, taken_apart, thought
from support.tiny_models import tiny_config, tiny_tokenizer

TEMPLATE: dict[str, Any] = {
    "start_anchor": "assistant:",
    "fields": {
        "content": {},
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{content.name}", "arguments": "{content.input}"}},
        },
    },
}
CALL = '<call>{"name": "f", "input": {"a": 1}}</call>'


def dialect(folder: Path, template: dict[str, Any], *names: str) -> Dialect:
    made = tiny_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<call>", "</call>"]})
    made.response_template = template
    made.save_pretrained(folder)
    tokenizer = ChatTokenizer(folder, tiny_config("llama"))
    return dialect_of(tokenizer.template, tokenizer.hidden(), *names, responses=tokenizer.responses())


@pytest.fixture
def template_dialect(tmp_path: Path) -> Dialect:
    return dialect(tmp_path, TEMPLATE)


PREFIX = Prefix("user: hi\nassistant:")


def read(of: Dialect, text: str, *, prefix: Prefix = PREFIX) -> list[Any]:
    whole = taken_apart(of, [text], prefix=prefix)
    for pieces in (list(text), [text[:7], text[7:]]):
        assert taken_apart(of, pieces, prefix=prefix) == whole
    return whole


def test_reasoning_content_and_calls_come_as_the_template_says(template_dialect: Dialect) -> None:
    events = read(template_dialect, f"<think>\nwhy?\n</think>\n\nSo there. {CALL}{CALL}")
    assert (thought(events), said(events)) == ("why?", "So there.")
    assert called(events) == [("f", '{"a": 1}')] * 2


def test_a_prompt_that_opens_reasoning_is_seen(template_dialect: Dialect) -> None:
    events = read(template_dialect, "why?</think>So.", prefix=Prefix("assistant:<think>\n"))
    assert (thought(events), said(events)) == ("why?", "So.")


@pytest.mark.parametrize("text", ['<call>{"name": "other", "input": {}}</call>', '<call>{"na</call> after', "<call>{"])
def test_what_is_no_call_is_content(template_dialect: Dialect, text: str) -> None:
    for pieces in ([text], list(text)):
        events = taken_apart(template_dialect, pieces, prefix=PREFIX)
        assert called(events) == []
        assert text.removeprefix("<call>").removesuffix("</call>").strip() in said(events)


def test_special_tokens_that_the_template_needs_are_in_the_text(template_dialect: Dialect) -> None:
    reading = template_dialect.reading({}, PREFIX)
    assert reading is not None
    assert {template_dialect.hidden["<call>"], template_dialect.hidden["</call>"]} <= reading.shown


def test_a_setting_goes_before_the_template(tmp_path: Path) -> None:
    text = '<tool_call>{"name": "f"}</tool_call>'
    assert called(taken_apart(dialect(tmp_path, TEMPLATE, "hermes", "auto"), [text])) == [("f", "{}")]


def test_a_template_that_cannot_be_used_is_left_out(tmp_path: Path) -> None:
    assert dialect(tmp_path, {"fields": {}}).responses is None


def test_text_is_told_as_it_comes(template_dialect: Dialect) -> None:
    reading = template_dialect.reading({"f": {}}, PREFIX)
    assert reading is not None
    parser = reading.make_parser(False)
    events = [event for piece in "So far" for event in parser.feed(piece)]
    # it is not held to the end
    assert said(joined(events)) == "So far"
