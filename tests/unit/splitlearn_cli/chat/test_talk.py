import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from splitlearn_cli.chat.commands import Chat
from splitlearn_cli.chat.conversation import Conversation, Sampling
from splitlearn_cli.chat.screen import markdown, plain
from splitlearn_cli.chat.talk import Screen, Service, talk
from splitlearn_cli.errors import BadUsage, ServiceRefused, ServiceUnreachable

ANSWER = [
    {"choices": [{"delta": {"role": "assistant", "content": "Good"}}]},
    {"choices": [{"delta": {"content": " day"}, "finish_reason": "stop"}]},
]


def thoughts(*texts: str) -> list[Any]:
    return [{"choices": [{"delta": {"reasoning_content": text}}]} for text in texts]


def messages(service: Any) -> list[list[str]]:
    return [[message["content"] for message in body["messages"]] for _, body in service.asked]


def said(service: Any, *lines: str, chat: Chat | None = None, goes_on: bool = False) -> Chat:
    chat = chat or Chat(Conversation(), Sampling())
    talk(lines, chat, Service(service.url, 10.0, "key"), plain, goes_on=goes_on)
    return chat


def test_each_question_is_asked_behind_the_answers_before_it(
    chat_service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_service.chunks = ANSWER
    said(chat_service, "one", " /two ", chat=Chat(Conversation("be brief"), Sampling(temperature=0.5, seed=3)))
    assert capsys.readouterr().out == "Good day\nGood day\n"
    assert messages(chat_service) == [["be brief", "one"], ["be brief", "one", "Good day", "/two"]]
    path, body = chat_service.asked[0]
    assert path == "/v1/chat/completions"
    assert {name: body[name] for name in body if name != "messages"} == {
        "model": "tiny", "temperature": 0.5, "seed": 3, "stream": True,
    }  # fmt: skip
    assert chat_service.authorization == {"Bearer key"}


def test_reasoning_is_shown_beside_the_answer_and_belongs_to_no_turn(
    chat_service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_service.chunks = [*thoughts("Is it", " morning?"), *ANSWER]
    chat = said(chat_service, "one")
    shown = capsys.readouterr()
    assert shown.out == "Good day\n"
    assert shown.err == "Is it morning?\n\n"
    assert [message.content for message in chat.conversation.turns] == ["one", "Good day"]


@pytest.mark.parametrize("screen", [plain, markdown])
def test_reasoning_that_comes_in_the_middle_of_an_answer_is_shown_there(
    chat_service: Any, monkeypatch: pytest.MonkeyPatch, screen: Screen
) -> None:
    # one terminal shows both
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    chat_service.chunks = [ANSWER[0], *thoughts("Is it", " morning?"), ANSWER[1], *thoughts("later")]
    chat = Chat(Conversation(), Sampling())
    talk(["one"], chat, Service(chat_service.url, 10.0), screen, goes_on=False)
    lines = [line.strip() for line in terminal.getvalue().splitlines() if line.strip()]
    assert lines == ["Good", "Is it morning?", "day", "later"]
    assert [message.content for message in chat.conversation.turns] == ["one", "Good day"]


def test_a_retried_question_is_asked_without_its_first_answer(chat_service: Any) -> None:
    chat_service.chunks = ANSWER
    said(chat_service, "one", "/retry")
    assert messages(chat_service) == [["one"], ["one"]]


def test_nothing_is_read_behind_the_end(chat_service: Any) -> None:
    def lines() -> Iterator[str]:
        yield "/quit"
        raise AssertionError("read on")

    talk(lines(), Chat(Conversation(), Sampling()), Service(chat_service.url, 10.0), plain, goes_on=True)


@pytest.mark.parametrize(
    ("code", "hint"),
    [("context_length_exceeded", "; /new begins a new conversation"), ("no_chat_template", "generate --raw")],
)
def test_a_refusal_says_what_helps_and_its_question_can_be_asked_again(
    chat_service: Any, capsys: pytest.CaptureFixture[str], code: str, hint: str
) -> None:
    chat_service.status, chat_service.body = 400, {"error": {"message": "too \x1blong", "code": code}}
    chat = said(chat_service, "one", "/nonsense", goes_on=True)
    err = capsys.readouterr().err
    assert "error: too long; " in err
    assert hint in err
    assert "no command /nonsense" in err
    assert (chat.conversation.turns, chat.conversation.unanswered) == ([], "one")


def test_in_a_script_the_first_error_ends_it(chat_service: Any) -> None:
    with pytest.raises(BadUsage):
        said(chat_service, "/nonsense", "one")
    chat_service.status, chat_service.body = 503, {"error": {"message": "no trunk", "code": "trunk_not_ready"}}
    with pytest.raises(ServiceRefused, match=r"^no trunk$"):
        said(chat_service, "one", "two")
    assert len(chat_service.asked) == 1


def test_an_answer_that_breaks_off_is_not_kept(chat_service: Any) -> None:
    chat_service.chunks, chat_service.done = ANSWER, False
    chat = Chat(Conversation(), Sampling())
    with pytest.raises(ServiceUnreachable, match="before its end"):
        said(chat_service, "one", chat=chat)
    assert chat.conversation.turns == []


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(
    chat_service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_service.chunks = ANSWER

    @contextmanager
    def stopped() -> Iterator[Callable[[str], None]]:
        def show(text: str) -> None:
            if text == " day":
                raise KeyboardInterrupt

        yield show

    chat = Chat(Conversation(), Sampling())
    talk(["one"], chat, Service(chat_service.url, 10.0), stopped, goes_on=True)
    assert [message.content for message in chat.conversation.turns] == ["one", "Good day"]
    assert "stopped" in capsys.readouterr().err
