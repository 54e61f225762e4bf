import json
from typing import Any

import pytest

from splitlearn_cli.load.answer import Answer
from splitlearn_cli.load.record import RequestFailure


def event(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False)


def text(said: str, reason: str | None = None) -> str:
    return event({"choices": [{"text": said, "finish_reason": reason}]})


def read(*events: str) -> Answer:
    """Events at the times 1, 2, 3 ..., and then the end."""
    answer = Answer()
    for second, each in enumerate(events, 1):
        answer.feed(each, float(second))
    answer.close()
    return answer


def test_chunks_are_events_with_text_and_each_has_its_time() -> None:
    role = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    thought = event({"choices": [{"delta": {"reasoning_content": "hm"}}]})
    content = event({"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]})

    answer = read(role, "", thought, content, "[DONE]")

    assert answer.failure is None
    assert answer.chunk_times == [3.0, 4.0]
    assert (answer.finish_reason, answer.ended) == ("stop", 5.0)


def test_tokens_are_those_of_the_usage() -> None:
    usage = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}})

    answer = read(text("a"), text("b", "length"), usage, "[DONE]")

    assert (answer.prompt_tokens, answer.output_tokens) == (9, 5)


def test_without_usage_each_chunk_counts_as_a_token_and_the_prompt_is_unknown() -> None:
    answer = read(event({"choices": [{"text": "a"}], "usage": None}), text("b", "length"), "[DONE]")

    assert (answer.prompt_tokens, answer.output_tokens) == (None, 2)


def test_a_stream_with_finish_reason_but_without_done_has_ended() -> None:
    answer = read(text("a"), text("b", "stop"))

    assert (answer.failure, answer.ended) == (None, 2.0)


@pytest.mark.parametrize(
    ("events", "kind", "message"),
    [
        ([text("a")], "incomplete", "before its end"),
        ([""], "not a stream", "no server-sent events"),
        ([text("a"), "{oops"], "unreadable event", "{oops"),
        (["[1]"], "unreadable event", "[1]"),
        (['{"choices": null}'], "unreadable event", "null"),
        ([text("a"), event({"error": {"message": "the trunk failed"}})], "error event", "the trunk failed"),
        ([event({"error": "gone"})], "error event", "gone"),
        # an error tells more than what comes after it
        ([event({"error": "gone"}), "{oops", "[DONE]"], "error event", "gone"),
    ],
)
def test_what_is_no_whole_answer_is_named(events: list[str], kind: str, message: str) -> None:
    failure = read(*events).failure

    assert isinstance(failure, RequestFailure)
    assert failure.kind == kind
    assert message in failure.message
