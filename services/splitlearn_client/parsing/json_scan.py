"""Follows JSON as it arrives: where a value ends, and where it stops being JSON.

Pure.
"""

import re
from typing import Final

# clients read it with limits of their own
_DEEPEST: Final = 100
_SPACE: Final = " \t\n\r"
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_CHARACTERS: Final = frozenset("-+.0123456789eE")
_WORDS: Final = ("true", "false", "null")
_CLOSING: Final = {"{": "}", "[": "]"}


class JSONScan:
    """Reads one JSON value, character by character."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._expects = "value"
        """value, item (a value or the end), key, member (a key or the end), colon, comma, string or word."""
        self._is_key = False
        self._word = ""
        self._escape = 0
        """In a string: 0 in plain text, -1 behind a backslash, else how many digits of \\u are missing."""
        self.is_done = False
        self.is_broken = False

    def feed(self, text: str, start: int = 0) -> int:
        """Goes on with `text` from `start`. The place up to which it is the value's, or its beginning."""
        for place in range(start, len(text)):
            if self.is_done:
                return place
            if not self._takes(text[place]):
                if not self.is_done:
                    self.is_broken = True
                return place
        return len(text)

    def _takes(self, character: str) -> bool:
        """Whether the character belongs to the value."""
        if self._expects == "string":
            return self._in_string(character)
        if self._expects == "word":
            return self._in_word(character)
        if character in _SPACE:
            return True
        if self._expects in ("colon", "comma"):
            return self._separates(character)
        if self._expects in ("item", "member") and character == _CLOSING[self._open[-1]]:
            return self._close()
        if self._expects in ("key", "member"):
            self._expects, self._is_key = "string", True
            return character == '"'
        return self._begins(character)

    def _separates(self, character: str) -> bool:
        if self._expects == "colon":
            self._expects = "value"
            return character == ":"
        if character == _CLOSING[self._open[-1]]:
            return self._close()
        self._expects = "key" if self._open[-1] == "{" else "value"
        return character == ","

    def _begins(self, character: str) -> bool:
        if character in _CLOSING:
            self._open.append(character)
            self._expects = "member" if character == "{" else "item"
            return len(self._open) <= _DEEPEST
        if character == '"':
            self._expects, self._is_key = "string", False
            return True
        self._expects, self._word = "word", ""
        return self._in_word(character)

    def _in_string(self, character: str) -> bool:
        if self._escape > 0:
            self._escape -= 1
            return character in "0123456789abcdefABCDEF"
        if self._escape < 0:
            self._escape = 4 if character == "u" else 0
            return character in '"\\/bfnrtu'
        if character == "\\":
            self._escape = -1
        elif character == '"':
            if self._is_key:
                self._expects = "colon"
            else:
                self._end_value()
        return character >= " "

    def _in_word(self, character: str) -> bool:
        word = self._word + character
        if any(each.startswith(word) for each in _WORDS):
            self._word = word
            if word in _WORDS:
                self._end_value()
            return True
        if character in _NUMBER_CHARACTERS and self._word not in ("", *_WORDS) and not self._word[0].isalpha():
            self._word = word
            return len(word) < 400
        if not self._word:
            self._word = character
            return character in "-0123456789"
        if not _NUMBER.fullmatch(self._word):
            return False
        self._end_value()
        # the character is behind the number
        return not self.is_done and self._takes(character)

    def _close(self) -> bool:
        self._open.pop()
        self._end_value()
        return True

    def _end_value(self) -> None:
        self._expects, self._word = "comma", ""
        self.is_done = not self._open
