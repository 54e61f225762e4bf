"""Conversations as plain values, and the forms in which files hold them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Protocol

from cleangpt.errors import TextColumnError, TextTooShortError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES: Final = (SYSTEM, USER, ASSISTANT)
# the form with `from` and `value` has names of its own for two roles
_OTHER_NAMES: Final = {"human": USER, "gpt": ASSISTANT}


@dataclass(frozen=True)
class Message:
    """One message; `role` is system, user or assistant."""

    role: str
    content: str


class Conversation(Protocol):
    """A conversation in one or more wordings, of which an epoch has one."""

    @property
    def wordings(self) -> tuple[tuple[Message, ...], ...]:
        """Every wording; all have the same number of answers."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """What a tokenizer is trained on."""
        ...


@dataclass(frozen=True)
class Chat:
    """A conversation with one wording."""

    messages: tuple[Message, ...]

    @property
    def wordings(self) -> tuple[tuple[Message, ...], ...]:
        return (self.messages,)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(each.content for each in self.messages)


@dataclass(frozen=True)
class Conversations:
    """What a source of conversations holds.

    `per_row` is how many may follow each other in a row, drawn uniformly. `is_memorized` says that they are made to be
    learned by heart, so that none is held out unless somebody asks for it.
    """

    items: tuple[Conversation, ...]
    per_row: tuple[int, ...] = (1,)
    is_memorized: bool = False

    @property
    def texts(self) -> list[str]:
        """The texts of all conversations."""
        return [text for each in self.items for text in each.texts]

    @property
    def has_system(self) -> bool:
        """Whether there is a system message."""
        return any(message.role == SYSTEM for each in self.items for wording in each.wordings for message in wording)

    @cached_property
    def digest(self) -> str:
        """A digest of all messages."""
        return hashlib.sha256(json.dumps([_plain(each) for each in self.items]).encode()).hexdigest()

    def first(self, n: int | None) -> "Conversations":
        """The first `n`; None keeps all."""
        return replace(self, items=self.items[:n])

    def last(self, n: int) -> "Conversations":
        """The last `n`."""
        return replace(self, items=self.items[len(self.items) - n :])

    def split(self, fraction: float) -> tuple["Conversations", "Conversations"]:
        """All without the last `fraction` (0 to 1), and these, at least one. Raises TextTooShortError."""
        total = len(self.items)
        held_out = max(1, round(fraction * total))
        if held_out >= total:
            raise TextTooShortError(
                f"{held_out} of {total} conversations to validate on leave none to train on; give more conversations "
                "or a smaller fraction"
            )
        return self.first(total - held_out), self.last(held_out)


def chat_of(value: Sequence[Any], where: str) -> Chat:
    """The conversation in a list of messages.

    A message is a mapping with `role` and `content`, or with `from` and `value`; other keys are ignored.

    Args:
        where: the place of the list, as errors say it.

    Raises:
        TextColumnError: an entry is no such message, or the assistant has nothing to answer or does not answer.
    """
    messages = tuple(_message(each, f"message {number} in {where}") for number, each in enumerate(value, 1))
    roles = [each.role for each in messages]
    if ASSISTANT not in roles:
        raise TextColumnError(f"{where} holds no answer of the assistant, so nothing would be learned; remove it")
    if roles[0] == ASSISTANT:
        raise TextColumnError(f"the messages in {where} begin with the assistant, who has nothing to answer; remove it")
    return Chat(messages)


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise TextColumnError(f"{where} is {type(value).__name__}, expected a message with role and content")
    for role_key, content_key in (("role", "content"), ("from", "value")):
        if role_key in value and content_key in value:
            role, content = value[role_key], value[content_key]
            break
    else:
        raise TextColumnError(f"{where} has {', '.join(map(str, value))}; expected role and content, or from and value")
    role = _OTHER_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        raise TextColumnError(f"{where} is of the role {role!r}, expected {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise TextColumnError(f"{where} holds {type(content).__name__}, expected text")
    return Message(role, content)


def _plain(conversation: Conversation) -> list[list[list[str]]]:
    return [[[each.role, each.content] for each in wording] for wording in conversation.wordings]
