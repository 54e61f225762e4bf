"""Whether guessed tokens can run beside the one that a session is at. Plain values."""

from enum import StrEnum
from typing import Final, Self

SPECULATION: Final = "speculation"
"""The attribute under which a worker reports it."""
MAX_SESSION_ROWS: Final = "max_session_rows"
"""The attribute under which a worker reports how many rows a session may hold, guesses included."""

_MOST_DIGITS: Final = 16


class Speculation(StrEnum):
    """What becomes of a session's rows when guesses run behind them, and are dropped if they were wrong.

    Weakest first. Parts name it to each other: a model's is that of its weakest part.
    """

    NONE = "none"
    """Its sessions cannot go back to an earlier row."""
    ROUNDED = "rounded"
    """A row may be rounded otherwise than without guesses, as stock operators choose kernels by the number of rows."""
    EXACT = "exact"
    """A row's bits are the same with guesses and without."""

    @classmethod
    def named(cls, name: str | None) -> Self:
        """What a peer named so; `NONE` for a name that is unknown or missing."""
        return cls(name) if name in list(cls) else cls("none")

    @classmethod
    def of(cls, *parts: "Speculation") -> "Speculation":
        """That of parts together."""
        return min(parts, key=list(cls).index)


def rows_named(text: str | None) -> int:
    """The number of rows that a peer wrote so; 0 for anything else."""
    return int(text) if text is not None and len(text) < _MOST_DIGITS and text.isascii() and text.isdecimal() else 0
