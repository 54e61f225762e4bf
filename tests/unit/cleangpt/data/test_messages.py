from typing import Any

import pytest

from cleangpt.data.messages import Chat, Conversations, Message, chat_of
from cleangpt.errors import TextColumnError, TextTooShortError

TURNS = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye"), ("assistant", "Bye!")]


def many(n: int) -> Conversations:
    return Conversations(tuple(Chat((Message("user", f"{k}"), Message("assistant", "yes"))) for k in range(n)))


def test_both_forms_of_messages_are_the_same_conversation() -> None:
    names = {"user": "human", "assistant": "gpt"}
    one = chat_of([{"role": role, "content": text, "name": None} for role, text in TURNS], "here")
    other = chat_of([{"from": names.get(role, role), "value": text} for role, text in TURNS], "here")
    assert one == other == Chat(tuple(Message(*each) for each in TURNS))
    assert one.wordings == (one.messages,)
    assert one.texts == ("Be brief.", "Hello", "Hi", "Bye", "Bye!")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "here holds no answer of the assistant"),
        ([{"role": "user", "content": "Hello"}], "here holds no answer of the assistant"),
        ([{"role": "assistant", "content": "Hi"}], "in here begin with the assistant"),
        (["Hello"], "message 1 in here is str, expected a message"),
        ([{"role": "user"}], "message 1 in here has role; expected role and content, or from and value"),
        ([{"role": "user", "value": "Hello"}], "has role, value; expected"),
        ([{"role": "tool", "content": "Hello"}], "is of the role 'tool', expected system, user, assistant"),
        ([{"role": ["user"], "content": "Hello"}], "is of the role"),
        ([{"role": "user", "content": None}], "message 1 in here holds NoneType, expected text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1 in here holds list, expected text"),
    ],
)
def test_a_list_that_is_no_conversation_is_refused_with_its_place(value: list[Any], reason: str) -> None:
    with pytest.raises(TextColumnError, match=reason):
        chat_of(value, "here")


def test_the_share_at_the_end_is_held_out_and_at_least_one() -> None:
    learned, held_out = many(10).split(0.3)
    assert [each.texts[0] for each in learned.items] == [str(number) for number in range(7)]
    assert [each.texts[0] for each in held_out.items] == ["7", "8", "9"]
    assert len(many(10).split(0.01)[1].items) == 1
    with pytest.raises(TextTooShortError, match="1 of 1 conversations"):
        many(1).split(0.05)
    assert many(10).first(2) == many(2)
    assert many(10).first(None) == many(10)
    assert many(3).last(1).items == many(3).items[2:]


def test_the_digest_tells_roles_and_texts_apart() -> None:
    one = Conversations((chat_of([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], ""),))
    other = Conversations((chat_of([{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}], ""),))
    assert one.digest == Conversations(one.items).digest
    assert len({one.digest, other.digest, many(1).digest}) == 3
    assert (one.has_system, other.has_system) == (False, True)
