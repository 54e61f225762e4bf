"""Answers that are taken apart in another process, by hostile templates and schemas too."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from splitlearn_client.errors import ProcessFailed, ResponseTemplateFailed
from splitlearn_client.parsing.responses import AnswerMismatch
from splitlearn_client.response_process import ResponseProcess, ResponseUnusable, Stream

# twice as long for each letter a
SLOW = r"(?:a|aa)+\[end\]"
TEMPLATE: dict[str, Any] = {
    "start_anchor": "assistant:",
    "fields": {
        "content": {},
        "thinking": {"open": "<think>", "close": "</think>"},
        "other": {"open_pattern": SLOW, "close": "."},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"(?P<key>\w)=(?P<value>(?:b|bb)+)$"},
        },
    },
}
HOSTILE = "a" * 60


def made(template: dict[str, Any] = TEMPLATE, **limits: Any) -> ResponseProcess:
    return ResponseProcess("template", json.dumps(template), **limits)


@pytest.fixture(scope="module")
def process() -> ResponseProcess:
    return made()


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(each.get("text", "") for each in events)


def begun(process: ResponseProcess, prompt: str = "assistant:") -> Stream:
    return process.stream(prompt, [])


def test_a_stream_knows_the_region_that_its_prompt_has_opened(process: ResponseProcess) -> None:
    stream = begun(process, "user: <think>x</think> assistant:<think>so")
    events = stream.feed("why</think>yes")
    assert stream.region == "thinking"
    assert texts(events) == "whyyes"
    assert [each["type"] for each in stream.finish()] == ["region_close"]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("assistant:", [HOSTILE]),
        ("assistant:" + HOSTILE, ["x"]),
        ("assistant:", ["<call>", f"k={60 * 'b'}x", "</call>"]),
    ],
    ids=["where regions open", "in the prompt", "in a call"],
)
def test_an_expression_without_end_is_ended_and_the_next_answer_is_read(prompt: str, pieces: list[str]) -> None:
    process = made(cpu_seconds=0.3)
    stream = begun(process, prompt)
    with pytest.raises(
        ResponseTemplateFailed, match=r"more than 0\.3 s; correct it, or .* --tool-call-parser"
    ) as failed:
        [stream.feed(each) for each in pieces]
    assert failed.value.status == 500
    assert texts(begun(process).feed("yes")) == "yes"


def test_another_answer_goes_on_where_it_was_after_a_hostile_one() -> None:
    process = made(cpu_seconds=0.3)
    stream = begun(process)
    assert texts(stream.feed("<think>why")) == "why"
    with pytest.raises(ResponseTemplateFailed):
        begun(process).feed(HOSTILE)
    told = stream.feed("?</think>So")
    assert [(each["type"], each["field"]) for each in told if each["type"] != "region_close"] == [
        ("region_chunk", "thinking"),
        ("region_open", "content"),
        ("region_chunk", "content"),
    ]
    assert texts(told) == "?So"


def test_the_time_of_all_pieces_of_an_answer_is_bounded_too() -> None:
    bounded = made(answer_seconds=0.05)
    stream = begun(bounded)
    with pytest.raises(ResponseTemplateFailed, match=r"more than 0\.05 s in all"):
        [stream.feed("word " * 20) for _ in range(100_000)]
    assert texts(begun(bounded).feed("yes")) == "yes"


def ended(process: ResponseProcess) -> None:
    """Something else ends it."""
    assert process._process is not None
    child = psutil.Process(process._process.pid)
    child.kill()
    child.wait()


def test_an_answer_goes_on_where_it_was_if_another_ends_the_process(process: ResponseProcess) -> None:
    stream = begun(process)
    stream.feed("So")
    ended(process)
    assert texts(stream.feed(" there")) == " there"


def test_an_answer_is_not_to_blame_for_what_all_its_pieces_take_when_they_are_fed_anew() -> None:
    process = made(cpu_seconds=0.8)
    process.start()
    assert process._process is not None
    child = psutil.Process(process._process.pid)

    def seconds(n: int) -> float:
        before = child.cpu_times().user
        begun(process).feed("a" * n + "x ")
        return float(child.cpu_times().user - before)

    n = next(n for n in range(10, 60) if seconds(n) > 0.1)
    stream = begun(process)
    for _ in range(10):
        stream.feed("a" * n + "x ")
    ended(process)
    assert texts(stream.feed("yes")).endswith("yes")


def test_a_template_that_is_unusable_only_in_a_later_process_is_not_the_request_s_fault() -> None:
    process = made()
    stream = begun(process)
    stream.feed("So")
    ended(process)
    process._source = "[1]"
    with pytest.raises(ProcessFailed, match=r"could not be started again \(.*must be a dict"):
        stream.feed("x")
    process._source = json.dumps(TEMPLATE)
    assert texts(stream.feed(" there")) == " there"


def test_what_does_not_fit_the_template_is_a_mismatch() -> None:
    process = made(
        {"start_anchor": ":", "fields": {"content": {}, "number": {"open": "<", "close": ">", "content": "int"}}}
    )
    with pytest.raises(AnswerMismatch, match="ValueError"):
        begun(process, ":").feed("<x>")
    with pytest.raises(AnswerMismatch, match="invalid literal"):
        begun(process, ":").feed("<x>")


@pytest.mark.parametrize(
    ("kind", "source", "why"),
    [
        ("template", {"fields": {}}, "ValueError"),
        ("template", {"start_anchor_pattern": "(", "fields": {"a": {}}}, "regex"),
        ("template", [1], "must be a dict"),
        ("schema", {"type": "any"}, "the type 'any'"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(kind: Any, source: Any, why: str) -> None:
    with pytest.raises(ResponseUnusable, match=why):
        ResponseProcess(kind, json.dumps(source)).start()


def test_a_schema_is_read_with_the_same_limits() -> None:
    part = {"type": "string", "x-regex": "(.*?)(?:a|aa)+$"}
    schema = ResponseProcess("schema", json.dumps({"type": "object", "properties": {"part": part}}), cpu_seconds=0.3)
    assert schema.read("yes: aa") == {"part": "yes: "}
    with pytest.raises(ResponseTemplateFailed, match="response schema of this model"):
        schema.read(HOSTILE + "b")
    with pytest.raises(AnswerMismatch):
        ResponseProcess("schema", '{"type": "array"}').read("x")


def test_answers_that_are_over_are_forgotten_by_the_process(process: ResponseProcess) -> None:
    numbers = [begun(process) for _ in range(3)]
    for each in numbers:
        each.feed("x")
    del numbers, each
    assert len(process._ended) == 3
    last = begun(process)
    last.feed("y")
    assert not process._ended


def test_threads_take_turns(process: ResponseProcess) -> None:
    def read(number: int) -> str:
        stream = begun(process)
        return "".join(texts(stream.feed(f"{number} ")) for _ in range(20)) + texts(stream.finish())

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, range(8))) == [f"{number} " * 20 for number in range(8)]


def test_the_process_sees_neither_this_one_s_environment_nor_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    fresh = made()
    fresh.start()
    assert fresh._process is not None
    seen = psutil.Process(fresh._process.pid)
    assert "SECRET" not in seen.environ()
    assert seen.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    assert seen.rlimit(psutil.RLIMIT_AS) == (1 << 30, 1 << 30)
