"""What guesses the next tokens of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

LEVELS: Final = 8
"""Drafters say how sure they are by numbers from 0 up to, not including, this."""


@dataclass(frozen=True)
class Draft:
    """Guesses at the tokens that come next, in order.

    Attributes:
        level: how sure the drafter is. What a level is worth is measured.
    """

    guesses: tuple[int, ...] = ()
    level: int = 0


class Drafter(Protocol):
    """Guesses for one answer, whose ids only grow."""

    def draft(self, ids: Sequence[int], most: int) -> Draft:
        """At most `most` guesses at what follows `ids`; none where it has no idea."""
