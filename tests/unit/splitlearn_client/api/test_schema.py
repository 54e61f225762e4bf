import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError

from splitlearn_client.api.prompt_fields import MOST_PROMPTS
from splitlearn_client.api.schema import (
    LONGEST_STOP,
    MOST_BAD_WORDS,
    MOST_STOPS,
    MOST_TOKENS,
    ChatFields,
    CompletionFields,
    EmbeddingFields,
)
from splitlearn_client.sampling import SamplingSettings
from splitlearn_client.stopping import StopRules

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> ChatFields:
    return ChatFields.model_validate({"model": "tiny", "messages": [USER], **fields})


def completion(**fields: Any) -> CompletionFields:
    return CompletionFields.model_validate({"model": "tiny", "prompt": "hi", **fields})


def complaint(**fields: Any) -> tuple[str, str]:
    """Where and what the first problem of a completion with these fields is."""
    with pytest.raises(ValidationError) as refused:
        completion(**fields)
    problem = refused.value.errors()[0]
    return ".".join(map(str, problem["loc"])), problem["msg"]


def test_what_is_left_out_is_as_in_the_openai_api() -> None:
    assert completion().sampling(None) == SamplingSettings()
    assert completion().max_tokens == 16
    assert chat().max_tokens is None
    for fields in (completion(), chat()):
        assert (fields.stream, fields.stop_rules, fields.stream_options) == (False, StopRules(), None)


def test_other_servers_words_for_a_default_are_as_if_the_field_were_absent() -> None:
    for ask in (completion, chat):
        assert ask(seed=-1) == ask(stop="") == ask()
    assert chat(max_tokens=-1) == chat(max_completion_tokens=-1) == chat()
    part = {"type": "text", "text": "hi"}
    assert chat(messages=[{**USER, "content": [{**part, "citations": []}]}]) == chat(
        messages=[{**USER, "content": [part]}]
    )
    whole: dict[str, Any] = {"model": "tiny", "input": "hi"}
    sent = {"truncate_prompt_tokens": -1, "service_tier": "auto", "metadata": {}}
    assert EmbeddingFields.model_validate(whole | sent) == EmbeddingFields.model_validate(whole)


def test_every_sampling_field_reaches_the_sampler() -> None:
    asked: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": -0.5,
        "presence_penalty": 2,
        "seed": -3,
    }
    assert completion(**asked).sampling(4) == SamplingSettings(**asked, top_logprobs=4)
    assert chat(**asked).sampling(None) == SamplingSettings(**asked)


@pytest.mark.parametrize(("stop", "stops"), [(None, ()), ("x", ("x",)), (["x", "y"], ("x", "y")), ([], ())])
def test_stop_is_one_string_or_several(stop: object, stops: tuple[str, ...]) -> None:
    assert completion(stop=stop).stop_rules.texts == stops


def test_every_rule_of_how_an_answer_ends_reaches_it() -> None:
    asked: dict[str, Any] = {"ignore_eos": True, "min_tokens": 3, "include_stop_str_in_output": True}
    for ask in (completion, chat):
        rules = ask(stop="x", stop_token_ids=[7, 5], **asked).stop_rules
        assert rules == StopRules(("x",), frozenset({5, 7}), **asked)


def test_biases_are_by_token_and_those_that_change_nothing_are_none() -> None:
    assert completion(logit_bias={"5": 1, "6": None, "7": 0, "0": -2.5}).sampling(None).logit_bias == (
        (5, 1),
        (0, -2.5),
    )
    assert completion(logit_bias={}).sampling(None) == SamplingSettings()


def test_allowed_tokens_reach_the_sampler() -> None:
    for ask in (completion, chat):
        assert ask(allowed_token_ids=[5, 7, 5]).sampling(None) == SamplingSettings(allowed_token_ids=frozenset({5, 7}))


def test_stop_strings_may_be_as_many_and_as_long_as_the_limits_say() -> None:
    stops = ["é" * LONGEST_STOP] * MOST_STOPS
    assert completion(stop=stops).stop_rules.texts == tuple(stops)
    assert completion(stop=stops[0]).stop_rules.texts == (stops[0],)


@pytest.mark.parametrize(
    ("stop", "place", "reason"),
    [
        (["x", ""], "stop.1", "at least 1 character"),
        ("x" * (LONGEST_STOP + 1), "stop", f"at most {LONGEST_STOP} characters"),
        (["x", "x" * 2**20, "x" * 2**20], "stop.1", f"at most {LONGEST_STOP} characters"),
        (["x"] * (MOST_STOPS + 1), "stop", f"at most {MOST_STOPS} items"),
    ],
)
def test_stop_strings_that_cannot_be_used_are_refused(stop: object, place: str, reason: str) -> None:
    named, told = complaint(stop=stop)
    assert (re.sub(r"\.<\w+>", "", named), reason in told) == (place, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("top_k", -2),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", float("inf")),
        ("max_tokens", 0),
        ("seed", 2**63),
        ("logprobs", 21),
        ("n", 0),
        ("n", 129),
        ("best_of", 0),
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [""]),
        ("prompt", [[]]),
        ("prompt", [True]),
        ("prompt", ["5", 5]),
        ("prompt", [[5.0]]),
        ("prompt", [["5"]]),
        ("prompt", [None]),
        ("prompt", ["x"] * (MOST_PROMPTS + 1)),
        ("stream", "perhaps"),
        ("echo", "perhaps"),
        ("prompt_logprobs", 21),
        ("prompt_logprobs", -1),
        ("presence_penalty", 2.5),
        ("frequency_penalty", float("nan")),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"5": "0"}),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"-5": 1}),
        ("logit_bias", {"05": 1}),
        ("logit_bias", {str(token): 1 for token in range(MOST_TOKENS + 1)}),
        ("logit_bias", [5]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["5"]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", [5] * (MOST_TOKENS + 1)),
        ("min_tokens", -1),
        ("ignore_eos", "perhaps"),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("allowed_token_ids", ["5"]),
        ("allowed_token_ids", 5),
        ("bad_words", [""]),
        ("bad_words", [" "]),
        ("bad_words", [5]),
        ("bad_words", "word"),
        ("bad_words", ["x" * (LONGEST_STOP + 1)]),
        ("bad_words", ["x"] * (MOST_BAD_WORDS + 1)),
        ("return_token_ids", "perhaps"),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("truncate_prompt_tokens", True),
        ("cache_salt", ""),
        ("cache_salt", "x" * 257),
        ("cache_salt", 5),
    ],
)
def test_a_value_that_cannot_be_honoured_is_refused_by_the_name_of_its_field(name: str, value: object) -> None:
    assert complaint(**{name: value})[0].split(".")[0] == name


@pytest.mark.parametrize(
    "fields",
    [
        {f"unknown{i}": 1 for i in range(9)},
        {"prompt": [1, *["x"] * 9]},
        {"prompt": [[1, *["x"] * 9], *[[]] * 9]},
        {"prompt": [""] * 9},
        {"stop": [1] * 9},
        {"messages": [1] * 9},
        {"messages": [{"role": "user", "content": [1] * 9}] * 9},
        {"messages": [{"role": "user", "content": "x", **{f"unknown{i}": 1 for i in range(9)}}] * 9},
    ],
)
def test_many_mistakes_of_one_kind_cost_as_much_as_one(fields: dict[str, Any]) -> None:
    ask = chat if "messages" in fields else completion
    with pytest.raises(ValidationError) as refused:
        ask(**fields)
    assert refused.value.error_count() == 1


def test_unknown_options_of_a_stream_are_refused() -> None:
    assert complaint(stream_options={"include_usage": True, "x": 1})[0] == "stream_options.x"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("one", {"prompt": "one"}),
        (["one"], {"prompt.0": "one"}),
        (["one", "two"], {"prompt.0": "one", "prompt.1": "two"}),
        ([1, 2], {"prompt": [1, 2]}),
        ([[1, 2]], {"prompt.0": [1, 2]}),
        ([[1], [2, 3]], {"prompt.0": [1], "prompt.1": [2, 3]}),
    ],
)
def test_a_prompt_is_text_or_ids_and_one_or_many(prompt: object, prompts: dict[str, object]) -> None:
    assert completion(prompt=prompt).prompts == prompts


def test_usage_in_every_chunk_needs_usage_at_all() -> None:
    both = {"include_usage": True, "continuous_usage_stats": True}
    assert completion(stream_options=both).continuous_usage
    assert not completion(stream_options={"continuous_usage_stats": True}).continuous_usage
    assert not completion(stream_options={"include_usage": True}).continuous_usage


def test_messages_keep_role_name_and_parts_for_the_template() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    sent = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts, "name": "Ann"}]
    assert [message.plain() for message in chat(messages=sent).messages] == sent


def test_what_the_model_advises_stands_where_a_request_leaves_a_field_out() -> None:
    advised = SamplingSettings(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.05)
    assert chat().sampling(None, advised) == advised
    assert chat(temperature=None, top_p=None).sampling(2, advised) == replace(advised, top_logprobs=2)
    # what is asked counts even where it is what OpenAI's would be
    asked = completion(temperature=1.0, top_k=0).sampling(None, advised)
    assert asked == replace(advised, temperature=1.0, top_k=0)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "wizard", "content": "hi"},
        {"role": "user"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": None},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
        {"role": "assistant", "content": "hi", "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": "hi", "refusal": "no"},
    ],
)
def test_messages_that_no_template_takes_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(messages=[message])


def test_a_conversation_without_messages_is_refused() -> None:
    with pytest.raises(ValidationError):
        chat(messages=[])


def test_top_logprobs_need_logprobs() -> None:
    assert chat(logprobs=True, top_logprobs=3).top_logprobs == 3
    with pytest.raises(ValidationError, match="top_logprobs needs logprobs"):
        chat(top_logprobs=3)


def test_null_stands_for_absent_at_every_depth() -> None:
    assert completion(temperature=None, n=None, stop=None, max_tokens=None).max_tokens == 16
    assert chat(temperature=None, top_p=None).sampling(None) == SamplingSettings()
    assert not completion(stream_options={"include_usage": None, "continuous_usage_stats": None}).include_usage
    message = {"role": "user", "name": None, "content": [{"type": "text", "text": "hi", "image_url": None}], "x": None}
    assert chat(messages=[message]).messages[0].plain() == {
        "role": "user",
        "content": [{"type": "text", "text": "hi"}],
    }


def assistant_messages() -> Iterator[ChatCompletionMessage]:
    """As the package makes them of replies of this service and of others."""
    yield ChatCompletionMessage(role="assistant", content="hello")
    yield ChatCompletionMessage(role="assistant", content="hello", annotations=[], tool_calls=[])
    yield ChatCompletionMessage(role="assistant", content="")
    yield ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": "hello", "reasoning_content": None, "reasoning": "", "audio": None}
    )


@pytest.mark.parametrize("message", list(assistant_messages()), ids=str)
def test_an_assistant_message_may_be_sent_back_as_the_openai_package_holds_it(message: ChatCompletionMessage) -> None:
    for sent in (message.model_dump(), message.to_dict(), message.model_dump(exclude_none=True), dict(message)):
        assert chat(messages=[USER, sent, USER]).messages[1].plain()["content"] == message.content
