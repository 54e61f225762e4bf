"""Text token by token.

Pure: ids in, text out.
"""

from collections.abc import Sequence
from typing import Final, Protocol

_LOST: Final = "\N{REPLACEMENT CHARACTER}"


class Words(Protocol):
    """As much of a vocabulary as text needs."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def hidden(self, token: int) -> str | None: ...

    def within(self, ids: Sequence[int]) -> str: ...


class IncrementalText:
    """Text token by token; characters whose bytes are not complete yet wait for the next token.

    Each step decodes a short window that begins a few tokens back, because a token's text depends on its
    neighbours (leading spaces, characters spread over several tokens). Tokens that are left out of texts are left out
    of windows too.
    """

    # enough to see whether a token continues a word
    _CONTEXT = 6
    # a character has at most four bytes, so one of this many windows does not begin inside one
    _STARTS = 4
    # a window is begun again when it has grown to so many tokens
    _LONGEST = 24
    # of a prompt, to find that many tokens with a text
    _LOOK_BACK = 64

    def __init__(self, words: Words, prompt: Sequence[int]) -> None:
        self._words = words
        seen = [token for token in prompt[-self._LOOK_BACK :] if words.hidden(token) is None]
        if not seen:
            seen = [token for token in prompt if words.hidden(token) is None]
        self._ids, self._done = self._window(seen)
        self._unfinished = 0
        """Tokens since the last one with which the text ended in a whole character."""

    def feed(self, token: int) -> str:
        """The text that this token completes; may be empty."""
        if self._words.hidden(token) is not None:
            return ""
        self._ids.append(token)
        text = self._words.decode(self._ids)
        waiting = self._unfinished + 1
        self._unfinished = waiting if text.endswith(_LOST) else 0
        if 0 < self._unfinished < self._STARTS:
            return ""
        while not text.startswith(self._done) and self._done.endswith(_LOST):
            # bytes at the end of the prompt, or said to make no character, have become one after all
            self._done = self._done[:-1]
        if not text.startswith(self._done):
            # the tokens changed what is already said, so all that can still be said of them is their own text
            piece = self._words.within(self._ids[-waiting:])
            self._unfinished = 0
            self._shorten(0)
            return piece
        certain = len(text) - _incomplete(text)
        piece = text[len(self._done) : certain]
        if piece:
            self._done = text[:certain]
        if len(self._ids) >= self._LONGEST:
            self._shorten(len(text) - len(self._done))
        return piece

    def flush(self) -> str:
        """What is left when no more tokens come, incomplete characters included."""
        text = self._words.decode(self._ids)
        if text.startswith(self._done) or not self._unfinished:
            return text[len(self._done) :]
        return self._words.within(self._ids[-self._unfinished :])

    def _shorten(self, owed: int) -> None:
        """Begins the window again; of its text, the last `owed` characters are not said yet."""
        self._ids, text = self._window(self._ids)
        self._done = text[: max(0, len(text) - owed)]

    def _window(self, ids: list[int]) -> tuple[list[int], str]:
        """The last ids and their text; bytes of a character that lost its first one would spoil those after them."""
        for length in range(self._CONTEXT, self._CONTEXT + self._STARTS):
            window = ids[-length:]
            text = self._words.decode(window)
            if not text.startswith(_LOST):
                break
        return window, text


def _incomplete(text: str) -> int:
    """Characters at the end that may still become another one: of one with four bytes, three at most."""
    tail = text[-3:]
    return len(tail) - len(tail.rstrip(_LOST))
