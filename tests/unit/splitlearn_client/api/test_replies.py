import math
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from splitlearn_client.answer import Alternative, TokenDelta, TokenLogprob
from splitlearn_client.api.replies import ReplyShape, measurements, usage
from splitlearn_client.report import Report


def shape(*, chat: bool) -> ReplyShape:
    return ReplyShape(chat, "tiny")


def report() -> Report:
    return Report(
        began=10.0,
        prompt_tokens=7,
        completion_tokens=5,
        first_token=10.5,
        last_token=12.5,
        wire_bytes_sent=100,
        wire_bytes_received=200,
    )


def token(
    text: str, number: int, logprob: float, *tops: tuple[int, str], offset: int = 0, spelled: bytes | None = None
) -> TokenLogprob:
    """A token of the answer; each of `tops` is less likely than the one before."""
    alternatives = tuple(Alternative(other, seen, seen.encode(), -float(i)) for i, (other, seen) in enumerate(tops))
    return TokenLogprob(number, text, text.encode() if spelled is None else spelled, logprob, offset, alternatives)


HEL = token("Hel", 1, -0.5, (1, "Hel"), (2, "lo"))
LO = token("lo", 2, -1.5, (2, "lo"), (1, "Hel"), offset=3)
DELTAS = [TokenDelta("Hel"), TokenDelta(""), TokenDelta("lo", finish_reason="length")]


def valid(model: Any, body: dict[str, Any]) -> Any:
    """The body as OpenAI's own package reads it, every field checked."""
    return model.model_validate(body, strict=True)


def test_a_whole_chat_reply_is_one_that_openai_s_package_reads() -> None:
    body = shape(chat=True).whole(DELTAS, report())
    read = valid(ChatCompletion, body)
    assert read.object == "chat.completion"
    assert read.id.startswith("chatcmpl-")
    assert read.model == "tiny"
    assert (read.choices[0].message.role, read.choices[0].message.content) == ("assistant", "Hello")
    assert read.choices[0].finish_reason == "length"
    assert read.choices[0].logprobs is None
    assert read.usage.total_tokens == 12


def test_a_whole_completion_is_one_that_openai_s_package_reads() -> None:
    read = valid(Completion, shape(chat=False).whole(DELTAS, report()))
    assert read.object == "text_completion"
    assert read.id.startswith("cmpl-")
    assert read.choices[0].text == "Hello"
    assert read.usage.completion_tokens == 5


def test_chunks_of_a_chat_share_an_identity_and_only_the_first_has_a_role() -> None:
    one = shape(chat=True)
    chunks = [
        valid(ChatCompletionChunk, one.chunk(p, {"content": p.text}, report(), first=i == 0))
        for i, p in enumerate(DELTAS)
    ]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.object for chunk in chunks] == ["chat.completion.chunk"] * 3
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None, None]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["Hel", "", "lo"]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]


def test_chunks_of_a_completion_carry_their_text() -> None:
    one = shape(chat=False)
    chunks = [one.chunk(p, {"content": p.text}, report(), first=i == 0) for i, p in enumerate(DELTAS)]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "", "lo"]
    assert [chunk["object"] for chunk in chunks] == ["text_completion"] * 3


def test_only_the_last_chunk_carries_the_measurements() -> None:
    chunks = [shape(chat=True).chunk(p, {}, report(), first=False) for p in DELTAS]
    assert ["splitlearn" in chunk for chunk in chunks] == [False, False, True]


def test_replies_to_two_requests_have_different_names() -> None:
    assert len({shape(chat=True).whole(DELTAS, report())["id"] for _ in range(5)}) == 5


def test_the_usage_chunk_has_no_choices() -> None:
    read = valid(ChatCompletionChunk, shape(chat=True).usage_chunk(report()))
    assert read.choices == []
    assert (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens) == (7, 5, 12)


def test_chat_logprobs_name_token_bytes_and_alternatives() -> None:
    accented = token("é", 5, -1.5, (5, "é"), offset=3)
    read = valid(
        ChatCompletion,
        shape(chat=True).whole([TokenDelta("Hel", (HEL,)), TokenDelta("é", (accented,), "stop")], report()),
    )
    first, second = read.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("Hel", -0.5, [72, 101, 108])
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("Hel", 0.0), ("lo", -1.0)]
    assert second.bytes == list("é".encode())


def test_a_piece_of_a_character_has_bytes_and_no_text_and_what_readers_never_see_has_no_bytes() -> None:
    hidden = Alternative(9, "</s>", None, -2.0)
    entry = TokenLogprob(3, "", b"\xf0", -0.5, 0, (hidden,))
    body = shape(chat=True).whole([TokenDelta("", (entry,), "stop")], report())
    valid(ChatCompletion, body)
    told = body["choices"][0]["logprobs"]["content"][0]
    assert (told["token"], told["bytes"]) == ("", [0xF0])
    assert told["top_logprobs"] == [{"token": "</s>", "logprob": -2.0, "bytes": None}]


def test_completion_logprobs_are_four_lists_side_by_side() -> None:
    deltas = [TokenDelta("Hel", (HEL,)), TokenDelta("lo", (LO,), "stop")]
    read = valid(Completion, shape(chat=False).whole(deltas, report())).choices[0].logprobs
    assert read.tokens == ["Hel", "lo"]
    assert read.token_logprobs == [-0.5, -1.5]
    assert read.text_offset == [0, 3]
    assert read.top_logprobs == [{"Hel": -0.5, "lo": -1.0}, {"lo": -1.5, "Hel": -1.0}]


@pytest.mark.parametrize("chat", [False, True])
def test_the_logprobs_of_a_stream_are_those_of_the_whole_reply(chat: bool) -> None:
    # the second token's text was held back, and comes with the third's
    third = token("!", 7, -2.5, offset=5)
    deltas = [TokenDelta("Hel", (HEL,)), TokenDelta(""), TokenDelta("lo!", (LO, third), "stop")]
    chunks = [shape(chat=chat).chunk(delta, {}, report(), first=False)["choices"][0] for delta in deltas]
    whole = shape(chat=chat).whole(deltas, report())["choices"][0]["logprobs"]
    assert chunks[1]["logprobs"] is None
    streamed = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
    for name, told in whole.items():
        if told is not None:
            assert [entry for each in streamed for entry in each[name]] == told


def test_alternatives_with_equal_texts_are_all_there_and_the_chosen_token_keeps_its_text() -> None:
    entry = token("a", 4, -0.5, (1, "a"), (2, "b"), (3, "b"), (4, "a"))
    body = shape(chat=False).whole([TokenDelta("a", (entry,), "stop")], report())
    assert body["choices"][0]["logprobs"]["top_logprobs"] == [
        {"a": -0.5, "token_id:1": 0.0, "b": -1.0, "token_id:3": -2.0}
    ]


def test_a_token_that_is_none_of_the_likeliest_is_listed_beside_them_in_a_completion() -> None:
    # as in OpenAI's documentation: up to logprobs + 1 elements
    deltas = [TokenDelta("ab", (token("a", 4, -7.0, (1, "a"), (2, "b")), token("b", 2, -0.5)), "stop")]
    read = valid(Completion, shape(chat=False).whole(deltas, report())).choices[0].logprobs
    assert read.top_logprobs == [{"a": -7.0, "token_id:1": 0.0, "b": -1.0}, {"b": -0.5}]
    # and not in a chat
    told = shape(chat=True).whole(deltas, report())["choices"][0]["logprobs"]["content"]
    assert [len(each["top_logprobs"]) for each in told] == [2, 0]


def test_measurements_are_of_the_tokens_after_the_first() -> None:
    measured = measurements(report())
    assert measured["time_to_first_token_seconds"] == pytest.approx(0.5)
    assert measured["tokens_per_second"] == pytest.approx(4 / 2.0)
    assert (measured["wire_bytes_sent"], measured["wire_bytes_received"]) == (100, 200)
    assert set(measured["seconds"]) == {"bottom", "wire", "queue", "trunk", "top", "sampling"}


@pytest.mark.parametrize("tokens", [0, 1])
def test_with_fewer_than_two_tokens_there_is_no_speed_to_speak_of(tokens: int) -> None:
    early = Report(completion_tokens=tokens, first_token=11.0 if tokens else None, last_token=11.0 if tokens else None)
    assert measurements(early)["tokens_per_second"] == 0
    assert math.isfinite(measurements(early)["time_to_first_token_seconds"])
    assert usage(early)["completion_tokens"] == tokens


IDS = [TokenDelta("", n_tokens=0), TokenDelta("Hel", token_ids=(1,)), TokenDelta("lo", (), "stop", token_ids=(2, 9))]


@pytest.mark.parametrize("chat", [False, True])
def test_ids_are_where_vllm_has_them_and_only_if_asked_for(chat: bool) -> None:
    asked = ReplyShape(chat, "tiny", prompt_ids=(5, 6))
    body = asked.whole(IDS, report())
    (choice,) = body["choices"]
    assert choice["token_ids"] == [1, 2, 9]
    assert (body if chat else choice)["prompt_token_ids"] == [5, 6]
    assert "prompt_token_ids" not in (choice if chat else body)
    assert "token_ids" not in str(shape(chat=chat).whole(IDS, report()))


@pytest.mark.parametrize("chat", [False, True])
def test_the_first_chunk_has_the_ids_of_the_prompt_and_each_those_of_its_tokens(chat: bool) -> None:
    asked = ReplyShape(chat, "tiny", prompt_ids=(5, 6))
    chunks = [asked.chunk(delta, {}, report(), first=number == 0) for number, delta in enumerate(IDS)]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[], [1], [2, 9]]
    places = [chunk if chat else chunk["choices"][0] for chunk in chunks]
    assert [place.get("prompt_token_ids") for place in places] == [[5, 6], None, None]
    unasked = [shape(chat=chat).chunk(delta, {}, report(), first=True) for delta in IDS]
    assert "token_ids" not in str(unasked)
