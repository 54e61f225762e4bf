import json

import pytest

from splitlearn_cli.chat.conversation import Conversation, Message, Sampling
from splitlearn_cli.errors import BadUsage


def said(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_a_question_is_asked_behind_everything_that_was_answered() -> None:
    it = Conversation("be brief")
    assert said(it.asking("one?")) == [("system", "be brief"), ("user", "one?")]
    it.answered("1")
    assert said(it.asking("two?"))[1:] == [("user", "one?"), ("assistant", "1"), ("user", "two?")]


def test_a_question_without_an_answer_is_not_kept_but_can_be_taken_back() -> None:
    it = Conversation()
    it.asking("one?")
    assert said(it.asking("two?")) == [("user", "two?")]
    assert [it.take_back(), it.take_back()] == ["two?", None]


def test_the_last_question_is_taken_back_with_its_answer() -> None:
    it = Conversation()
    for text in ("one?", "two?"):
        it.asking(text)
        it.answered("yes")
    assert it.take_back() == "two?"
    assert said(it.turns) == [("user", "one?"), ("assistant", "yes")]


def test_a_new_conversation_keeps_the_system_prompt() -> None:
    it = Conversation("be brief")
    it.asking("one?")
    it.answered("1")
    it.begin()
    assert said(it.asking("two?")) == [("system", "be brief"), ("user", "two?")]


@pytest.mark.parametrize("system", ["", "kurz, bitte: ß"])
def test_what_is_saved_is_read_again(system: str) -> None:
    it = Conversation(system)
    it.asking("eins?\n")
    it.answered("“1”")
    assert Conversation.from_json(it.as_json()) == it


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no conversation"),
        ("[]", "no conversation"),
        ('{"messages": [{"role": "user"}]}', "no conversation"),
        ('{"messages": [{"role": "user", "content": [1]}]}', "no conversation"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "in turns"),
        ('{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}', "in turns"),
    ],
)
def test_what_is_no_conversation_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadUsage, match=words):
        Conversation.from_json(text)


def test_only_what_is_set_is_sent() -> None:
    assert Sampling().fields() == {}
    assert json.dumps(Sampling(temperature=0.0, seed=0).fields()) == '{"temperature": 0.0, "seed": 0}'
