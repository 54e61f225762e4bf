"""Whether guessed tokens can run beside the one that a session is at. Plain values."""

from enum import StrEnum
from typing import Final, Self

SPECULATION: Final = "speculation"
"""The attribute under which a worker reports it."""


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
