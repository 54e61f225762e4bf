from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


def test_the_answer_is_streamed_with_the_flags_of_the_command_line(splitlearn: Run, chat_service: Any) -> None:
    chat_service.chunks = [{"choices": [{"text": "Good day"}]}]

    ran = splitlearn(
        "generate", "Hello", "--url", chat_service.url + "/", "--raw", "--max-tokens", 5, "--seed", 1,
        "--temperature", 0.5,
    )  # fmt: skip

    assert (ran.code, ran.out, ran.err) == (0, "Good day\n", "")
    path, body = chat_service.asked[0]
    assert path == "/v1/completions"
    assert (body["prompt"], body["max_tokens"], body["seed"], body["temperature"]) == ("Hello", 5, 1, 0.5)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize("raw", [False, True])
def test_the_address_may_be_the_one_that_openai_s_clients_want(
    splitlearn: Run, chat_service: Any, path: str, raw: bool
) -> None:
    chat_service.chunks = [{"choices": [{"text": "Good day"}]}]
    assert splitlearn("generate", "Hello", "--url", chat_service.url + path, *(["--raw"] if raw else [])).code == 0
    assert chat_service.asked[0][0] == ("/v1/completions" if raw else "/v1/chat/completions")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "expected http://HOST:PORT"),
        ("localhost", "expected http://HOST:PORT"),
        ("http://127.0.0.1:99999/v1", "out of range"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anybody_is_asked(splitlearn: Run, url: str, words: str) -> None:
    ran = splitlearn("generate", "Hello", "--url", url)
    assert ran.code == 2
    assert words in ran.err
    assert "--url" in ran.err
    assert ran.err.count("\n") == 1


def test_the_address_may_come_from_the_environment(
    splitlearn: Run, chat_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITLEARN_GENERATE_URL", chat_service.url)

    assert splitlearn("generate", "Hello").code == 0
    assert len(chat_service.asked) == 1


def test_a_model_without_chat_template_is_answered_with_the_flag_that_helps(splitlearn: Run, chat_service: Any) -> None:
    chat_service.status = 400
    chat_service.body = {"error": {"message": "none here", "code": "no_chat_template"}}

    ran = splitlearn("generate", "Hello", "--url", chat_service.url)

    assert ran.code == 1
    assert "--raw" in ran.err
    assert ran.err.count("\n") == 1


def test_any_other_refusal_is_passed_on(splitlearn: Run, chat_service: Any) -> None:
    chat_service.status = 503
    chat_service.body = {"error": {"message": "no trunk answers", "code": "trunk_not_ready"}}

    ran = splitlearn("generate", "Hello", "--url", chat_service.url)

    assert (ran.code, ran.out, ran.err) == (1, "", "splitlearn: error: no trunk answers\n")


@pytest.mark.parametrize("given", ["flag", "variable", "neither"])
def test_an_api_key_is_sent_with_every_request(
    splitlearn: Run, chat_service: Any, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    chat_service.chunks = [{"choices": [{"text": "Good day"}]}]
    if given == "variable":
        monkeypatch.setenv("SPLITLEARN_GENERATE_API_KEY", "the-key")
    words = ["--api-key", "the-key"] if given == "flag" else []
    assert splitlearn("generate", "Hello", "--url", chat_service.url, *words).code == 0
    assert chat_service.authorization == {None if given == "neither" else "Bearer the-key"}


def test_a_service_that_asks_for_a_key_is_answered_with_where_to_give_it(splitlearn: Run, chat_service: Any) -> None:
    chat_service.status = 401
    chat_service.body = {"error": {"message": "this service asks for an API key", "code": "invalid_api_key"}}
    ran = splitlearn("generate", "Hello", "--url", chat_service.url)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "asks for an API key" in ran.err
    assert "--api-key" in ran.err
