"""Words in place of a conversation's own, which show what a chat template leaves out.

Pure.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from splitlearn_client.text.tool_messages import n_calls, with_called_names

Message = Mapping[str, Any]

_WORD = re.compile(r"zqprobe(\d{9})")
WORD: Final = "zqprobe000000000"
"""Any of the words."""
# What stands between the words of a text: lines, and together more characters than a template may show of a text
# (Jinja's truncate leaves 255).
_BETWEEN: Final = "\n" + "some words of a line\n" * 8
_WORDS_OF_A_TEXT: Final = 3
# A member that no template reads: if it is in the text, the template printed the whole part.
_UNREAD: Final = "zqunread"
_LONGEST_MEMBER: Final = 64
_UNREAD_VALUE = re.compile(_UNREAD + r"(\d{9})")


class Probe:
    """The words of one conversation, and whose they are.

    Attributes:
        length: characters that the words and what is about them add to a rendered text, at most.
    """

    def __init__(self) -> None:
        self.length = 0
        self._owners: list[int] = []
        """By number of a word, the message that it stands in."""

    def shadow(self, message: Message, index: int) -> Message:
        """The message with words in place of its texts, and in place of the names that it calls."""
        content = message.get("content")
        if isinstance(content, str) and content.strip():
            content = self._text(index)
        elif isinstance(content, list):
            content = [self._part(part, index) for part in content]
        shadow = with_called_names(message, self._words(index))
        return {**shadow, "content": content} if "content" in message else shadow

    def around(self, message: Message, index: int) -> Message:
        """The message with a word before and after each of its texts that is not blank."""
        content = message.get("content")
        if isinstance(content, str):
            content = self._around(content, index)
        elif isinstance(content, list):
            content = [{**part, "text": self._around(part.get("text", ""), index)} for part in content]
        return {**message, "content": content}

    def first_left_out(self, text: str) -> int | None:
        """The first message that a rendered text lacks a word of, or has a part of as it is."""
        folded = text.casefold()
        found = {int(number) for number in _WORD.findall(folded)}
        missing = (owner for number, owner in enumerate(self._owners) if number not in found)
        printed = (int(index) for index in _UNREAD_VALUE.findall(folded))
        return min((*missing, *printed), default=None)

    def _words(self, index: int) -> Iterator[str]:
        while True:
            self._owners.append(index)
            self.length += len(WORD)
            yield f"zqprobe{len(self._owners) - 1:09d}"

    def _text(self, index: int) -> str:
        """A text of which the beginning, the middle and the end are words."""
        # in quotes each line's end takes two characters
        self.length += 2 * _WORDS_OF_A_TEXT * len(_BETWEEN)
        words = self._words(index)
        return _BETWEEN.join(next(words) for _ in range(_WORDS_OF_A_TEXT))

    def _around(self, text: str, index: int) -> str:
        if not text.strip():
            return text
        words = self._words(index)
        # in quotes each line's end takes two characters
        self.length += 4
        return f"{next(words)}\n{text}\n{next(words)}"

    def _part(self, part: Mapping[str, Any], index: int) -> Mapping[str, Any]:
        text = part.get("text", "")
        self.length += _LONGEST_MEMBER
        return {**part, "text": self._text(index) if text.strip() else text, _UNREAD: f"{_UNREAD}{index:09d}"}


def shape_of(message: Message) -> tuple[Any, ...]:
    """What a template may decide by, beside the words themselves."""
    content = message.get("content")
    said: Any = bool(content.strip()) if isinstance(content, str) else None
    if isinstance(content, list):
        said = tuple(bool(part.get("text", "").strip()) for part in content)
    return (*sorted(message), message["role"], said, n_calls(message))


def n_said(message: Message) -> int:
    """Texts, parts and calls of a message."""
    content = message.get("content")
    return n_calls(message) + (max(1, len(content)) if isinstance(content, list) else 1)
