import json
from typing import Any

import pytest

from splitlearn_cli.lines import Lines
from splitlearn_cli.load.answer import Answer
from splitlearn_cli.load.record import RequestFailure


def line(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode()


def text(said: str, reason: str | None = None) -> bytes:
    return line({"choices": [{"text": said, "finish_reason": reason}]})


def read(*lines: bytes) -> Answer:
    """The lines at the times 1, 2, 3 ..., and then the end."""
    answer = Answer()
    for second, each in enumerate(lines, 1):
        answer.feed(each, float(second))
    answer.close()
    return answer


def test_a_line_separator_inside_of_a_text_does_not_cut_the_event() -> None:
    lines = Lines()
    answer = read(*lines.feed(text("a\u2028b\x85") + b"\n" + text("c", "stop") + b"\n"))

    assert answer.failure is None
    assert answer.chunk_times == [1.0, 2.0]


def test_chunks_are_events_with_text_and_each_has_its_time() -> None:
    role = line({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    thought = line({"choices": [{"delta": {"reasoning_content": "hm"}}]})
    content = line({"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]})

    answer = read(role, b": comment", b"", thought, content, b"data: [DONE]")

    assert answer.failure is None
    assert answer.chunk_times == [4.0, 5.0]
    assert (answer.finish_reason, answer.ended) == ("stop", 6.0)


def test_tokens_are_those_of_the_usage() -> None:
    usage = line({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}})

    answer = read(text("a"), text("b", "length"), usage, b"data: [DONE]")

    assert (answer.prompt_tokens, answer.output_tokens) == (9, 5)


def test_without_usage_each_chunk_counts_as_a_token_and_the_prompt_is_unknown() -> None:
    answer = read(line({"choices": [{"text": "a"}], "usage": None}), text("b", "length"), b"data: [DONE]")

    assert (answer.prompt_tokens, answer.output_tokens) == (None, 2)


def test_a_stream_with_finish_reason_but_without_done_has_ended() -> None:
    answer = read(text("a"), text("b", "stop"))

    assert (answer.failure, answer.ended) == (None, 2.0)


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        ([text("a")], "incomplete", "before its end"),
        ([b"", b'{"choices": []}'], "not a stream", "no server-sent events"),
        ([text("a"), b"data: {oops"], "unreadable event", "{oops"),
        ([b"data: [1]"], "unreadable event", "[1]"),
        ([b'data: {"choices": null}'], "unreadable event", "null"),
        ([b'data: \xff\xfe{"'], "unreadable event", "�"),
        ([text("a"), line({"error": {"message": "the trunk failed"}})], "error event", "the trunk failed"),
        ([line({"error": "gone"})], "error event", "gone"),
        # an error tells more than what comes after it
        ([line({"error": "gone"}), b"data: {oops", b"data: [DONE]"], "error event", "gone"),
    ],
)
def test_what_is_no_whole_answer_is_named(lines: list[bytes], kind: str, message: str) -> None:
    failure = read(*lines).failure

    assert isinstance(failure, RequestFailure)
    assert failure.kind == kind
    assert message in failure.message
