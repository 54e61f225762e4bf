import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
ANSWER = [{"choices": [{"delta": {"content": "Good day"}, "finish_reason": "stop"}]}]


def test_lines_of_a_pipe_are_one_conversation(
    splitlearn: Run, chat_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_service.chunks = ANSWER
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n/set max_tokens 3\ntwo\n"))
    ran = splitlearn("chat", "--url", f"{chat_service.url}/v1", "--system", "be brief", "--temperature", 0)
    assert (ran.code, ran.out) == (0, "Good day\nGood day\n")
    first, second = (body for _, body in chat_service.asked)
    assert first["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}]
    assert "max_tokens" not in first
    assert second["max_tokens"] == 3
    assert second["temperature"] == 0


def test_an_error_in_a_script_is_the_command_s(
    splitlearn: Run, chat_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/nonsense\none\n"))
    ran = splitlearn("chat", "--url", chat_service.url)
    assert ran.code == 2
    assert "no command /nonsense" in ran.err
    assert chat_service.asked == []


def test_nobody_is_asked_to_enter_anything_before_a_service_answers(splitlearn: Run) -> None:
    ran = splitlearn("chat", "--url", "http://127.0.0.1:1", "--wait", 0)
    assert ran.code == 1
    assert "no client service answers at http://127.0.0.1:1" in ran.err
