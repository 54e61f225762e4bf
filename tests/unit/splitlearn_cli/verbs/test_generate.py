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
