"""Incremental detokenization.

Pure: ids in, text out.
"""

from collections.abc import Sequence
from typing import Final, Protocol

_LOST: Final = "\N{REPLACEMENT CHARACTER}"


class Words(Protocol):
    """What detokenization needs of a vocabulary."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def hidden(self, token: int) -> str | None: ...

    def within(self, ids: Sequence[int]) -> str: ...


class IncrementalText:
    """Turns tokens into text one by one. Incomplete characters wait for the next token.

    Each step decodes a short window that begins a few tokens back, because a token's text depends on its neighbours
    (leading spaces, characters of several tokens). Hidden tokens are not in the window.
    """

    # tokens of context: enough to see whether a token continues a word
    _CONTEXT = 6
    # a character has at most four bytes, so one of this many windows begins at a character
    _STARTS = 4
    # the window is shortened when it has this many tokens
    _LONGEST = 24
    # tokens at a prompt's end that are searched for visible ones
    _LOOK_BACK = 64

    def __init__(self, words: Words, prompt: Sequence[int]) -> None:
        self._words = words
        seen = [token for token in prompt[-self._LOOK_BACK :] if words.hidden(token) is None]
        if not seen:
            seen = [token for token in prompt if words.hidden(token) is None]
        self._ids, self._done = self._window(seen)
        self._unfinished = 0
        """Tokens since the text last ended in a complete character."""

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
            # bytes that looked invalid, at the prompt's end or later, have become a character
            self._done = self._done[:-1]
        if not text.startswith(self._done):
            # the tokens changed text that was returned already, so only their own text can still be added
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
        """The rest of the text, incomplete characters included. Call it after the last token."""
        text = self._words.decode(self._ids)
        if text.startswith(self._done) or not self._unfinished:
            return text[len(self._done) :]
        return self._words.within(self._ids[-self._unfinished :])

    def interrupt(self) -> str:
        """As `flush`, before a token whose text is not decoded here; others may follow."""
        rest = self.flush()
        self._unfinished = 0
        self._shorten(0)
        return rest

    def _shorten(self, owed: int) -> None:
        """Shortens the window; the last `owed` characters of its text were not returned yet."""
        self._ids, text = self._window(self._ids)
        self._done = text[: max(0, len(text) - owed)]

    def _window(self, ids: list[int]) -> tuple[list[int], str]:
        """The last ids and their text. Begins at a character, because stray bytes would spoil what follows."""
        for length in range(self._CONTEXT, self._CONTEXT + self._STARTS):
            window = ids[-length:]
            text = self._words.decode(window)
            if not text.startswith(_LOST):
                break
        return window, text


def _incomplete(text: str) -> int:
    """Replacement characters at the end that may become a character: at most three of its four bytes."""
    tail = text[-3:]
    return len(tail) - len(tail.rstrip(_LOST))
