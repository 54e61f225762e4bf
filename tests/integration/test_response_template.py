"""Answers that are read by a response template, over the service's own routes; a script stands in for the model."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from splitlearn_client.api.replies import ReplyShape
from splitlearn_client.parsing.dialect import Dialect
from splitlearn_client.response_process import ResponseProcess
from support.staged_service import TOOL, Stage, staged
from support.tool_templates import HERMES

TEMPLATE: dict[str, Any] = {
    "start_anchor": "assistant",
    "fields": {
        "content": {},
        "thinking": {"open": "[", "close": "]"},
        "other": {"open_pattern": "(?:a|aa)+!", "close": "."},
        "tool_calls": {
            "open": "<<",
            "close": ">>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{content.name}", "arguments": "{content.input}"}},
        },
    },
}
ANSWER = '[why?] So. <<{"name": "f", "input": {"n": 1}}>>'
HOSTILE = 60 * "a"


@pytest.fixture(scope="module")
def reader() -> ResponseProcess:
    return ResponseProcess("template", json.dumps(TEMPLATE), cpu_seconds=1.0)


@pytest.fixture
async def stage(tmp_path: Path, reader: ResponseProcess) -> AsyncIterator[Stage]:
    async with staged(tmp_path, HERMES, Dialect(responses=reader)) as running:
        yield running


async def test_an_answer_is_taken_apart_whole_and_streamed(stage: Stage) -> None:
    message = (await stage.asked(ANSWER))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("So.", "why?")
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"n": 1}'}
    deltas = [chunk.choices[0].delta for chunk in await stage.streamed(ANSWER)]
    assert "".join(delta.content or "" for delta in deltas) == "So."
    [arguments] = ["".join(call.function.arguments for delta in deltas for call in delta.tool_calls or [])]
    assert json.loads(arguments) == {"n": 1}


async def test_a_template_that_takes_too_long_is_the_operator_s_fault(stage: Stage) -> None:
    stage.script.text = HOSTILE
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
    whole = await stage.http.post("/v1/chat/completions", json=body)
    assert whole.status_code == 500
    error = whole.json()["error"]
    assert (error["code"], error["type"]) == ("response_template_failed", "server_error")
    assert "more than 1 s" in error["message"]
    assert "--tool-call-parser" in error["message"]
    streamed = await stage.http.post("/v1/chat/completions", json={**body, "stream": True})
    # the first pieces may have been sent
    assert "response_template_failed" in streamed.text
    assert "[DONE]" not in streamed.text
    message = (await stage.asked(ANSWER))["choices"][0]["message"]
    assert message["content"] == "So."


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/responses", {"input": "hi"}), ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]})],
)
async def test_the_other_dialects_say_so_too(stage: Stage, path: str, field: dict[str, Any]) -> None:
    stage.script.text = HOSTILE
    reply = await stage.http.post(path, json={"model": "tiny", "max_tokens": 500, **field} | _most(path))
    assert reply.status_code == 500
    assert "response template of this model" in reply.text


def _most(path: str) -> dict[str, Any]:
    return {"max_tokens": None, "max_output_tokens": 500} if path == "/v1/responses" else {}


async def test_only_the_message_of_a_whole_reply_is_made_where_answers_are_read(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, whole = list[str](), ReplyShape.whole

    def seen(self: ReplyShape, *args: Any) -> dict[str, Any]:
        threads.append(threading.current_thread().name)
        return whole(self, *args)

    monkeypatch.setattr(ReplyShape, "whole", seen)
    body = await stage.asked(ANSWER, n=2, logprobs=True)
    assert [each["message"]["content"] for each in body["choices"]] == ["So.", "So."]
    assert len(threads) == 2
    assert not any(name.startswith("response") for name in threads)


@pytest.mark.parametrize("depth", [950, 965, 980, 995])
async def test_a_call_that_is_nested_deeply_is_a_call_or_text(stage: Stage, depth: int) -> None:
    text = '<<{"name": "f", "input": ' + depth * "[" + depth * "]" + "}>>"
    message = (await stage.asked(text))["choices"][0]["message"]
    assert text in message["content"] if "tool_calls" not in message else message["content"] is None


class Waiting:
    """Reads answers only when it is told to."""

    region = "content"

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(1)
        self.has_begun, self.may_go_on = Event(), Event()

    def stream(self, prompt: str, tools: Sequence[Mapping[str, Any]]) -> "Waiting":
        return self

    def feed(self, text: str) -> list[dict[str, Any]]:
        self.has_begun.set()
        assert self.may_go_on.wait(30)
        return [{"type": "region_chunk", "field": "content", "text": text}]

    def finish(self) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 500}),
    ],
)
async def test_others_are_answered_while_an_answer_is_read(
    tmp_path: Path, path: str, field: dict[str, Any], stream: bool
) -> None:
    reader = Waiting()
    async with staged(tmp_path, HERMES, Dialect(responses=reader)) as stage:
        stage.script.text = "So."
        asked = asyncio.create_task(stage.http.post(path, json={"model": "tiny", "stream": stream, **field}))
        assert await asyncio.to_thread(reader.has_begun.wait, 30)
        assert (await stage.http.get("/v1/models")).status_code == 200
        assert not asked.done()
        reader.may_go_on.set()
        assert (await asked).status_code == 200
    reader.threads.shutdown()
