"""ECMA's regular expressions, in which schemas are written, in the words of Rust's, which llguidance reads.

The two agree on most, and silently differ on the rest: what `.` and `\\s` stand for, and what operators a class of
characters has. What has no exact translation is refused.

Pure.
"""

import re
from typing import Final

_SPACE: Final = r"\t\n\x0b\x0c\r\x20\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}"
_CLASSES: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": _SPACE}
_NOT_A_LINE_END: Final = r"[^\n\r\u{2028}\u{2029}]"
_CONTROL: Final = {"t": r"\t", "n": r"\n", "r": r"\r", "f": r"\x0c", "v": r"\x0b", "0": r"\x00"}
_SYNTAX: Final = frozenset("^$\\.*+?()[]{}|/-")
_QUANTIFIER: Final = re.compile(r"\{\d{1,9}(,\d{0,9})?\}")
_HEX: Final = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_PROPERTY: Final = re.compile(r"[pP]\{[A-Za-z_=]{1,40}\}")
_NAMED: Final = re.compile(r"\?<[A-Za-z_][A-Za-z0-9_]{0,40}>")
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)


class UnsupportedPattern(Exception):
    """The expression has something that cannot be translated; with what that is."""


def translated(pattern: str) -> str:
    """The same expression for Rust's regex syntax. Raises UnsupportedPattern."""
    return _Translation(pattern).whole()


def literal(text: str) -> str:
    """An expression for exactly this text."""
    return "".join(f"\\u{{{ord(character):x}}}" for character in text)


class _Translation:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0

    def whole(self) -> str:
        parts = []
        while self._at < len(self._pattern):
            character = self._take()
            if character == "\\":
                parts.append(self._escape(in_class=False))
            elif character == "[":
                parts.append(self._class())
            elif character == ".":
                parts.append(_NOT_A_LINE_END)
            elif character == "(":
                parts.append("(" + self._group())
            elif character == "{":
                parts.append(self._quantifier())
            elif character in "^$*+?)|":
                parts.append(character)
            else:
                parts.append(literal(character))
        return "".join(parts)

    def _take(self) -> str:
        if self._at == len(self._pattern):
            raise UnsupportedPattern("it ends too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _matched(self, expression: "re.Pattern[str]") -> "re.Match[str] | None":
        found = expression.match(self._pattern, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _group(self) -> str:
        if not self._pattern.startswith("?", self._at):
            return "?:"
        if self._pattern.startswith("?:", self._at):
            self._at += 2
            return "?:"
        if self._matched(_NAMED):
            return "?:"
        raise UnsupportedPattern("look-ahead, look-behind and flags are not supported")

    def _quantifier(self) -> str:
        self._at -= 1
        found = self._matched(_QUANTIFIER)
        if found is None:
            raise UnsupportedPattern("a brace that is no quantifier has to be escaped")
        return found[0]

    def _escape(self, *, in_class: bool) -> str:
        if found := self._matched(_PROPERTY):
            return "\\" + found[0]
        if found := self._matched(_HEX):
            return f"\\u{{{self._code(found):x}}}"
        character = self._take()
        if character in _CONTROL:
            return _CONTROL[character]
        if character in _SYNTAX:
            return literal(character)
        if character in _CLASSES:
            return _CLASSES[character] if in_class else f"[{_CLASSES[character]}]"
        if character.lower() in _CLASSES and not in_class:
            return f"[^{_CLASSES[character.lower()]}]"
        raise UnsupportedPattern(f"\\{character} is not supported here")

    def _code(self, found: "re.Match[str]") -> int:
        code = int(found[1] or found[2] or found[3], 16)
        if code in _HIGH and self._pattern.startswith("\\", self._at):
            self._at += 1
            low = self._matched(_HEX)
            if low is not None and low[2] and int(low[2], 16) in _LOW:
                return 0x10000 + ((code - _HIGH.start) << 10) + int(low[2], 16) - _LOW.start
        if code in _HIGH or code in _LOW or code > 0x10FFFF:
            raise UnsupportedPattern("half of a surrogate pair is no character")
        return code

    def _class(self) -> str:
        parts = ["["]
        if self._pattern.startswith("^", self._at):
            self._at += 1
            parts.append("^")
        begins = len(parts)
        while (character := self._take()) != "]":
            if character == "\\":
                # \b is a backspace here
                parts.append(self._escape(in_class=True))
            elif character == "-":
                parts.append("-" if self._is_range(parts, begins) else literal("-"))
            else:
                parts.append(literal(character))
        if len(parts) == begins:
            raise UnsupportedPattern("a class without characters is not supported")
        return "".join([*parts, "]"])

    def _is_range(self, parts: list[str], begins: int) -> bool:
        return len(parts) > begins and parts[-1] != "-" and not self._pattern.startswith("]", self._at)
