"""What guesses the next tokens of an answer."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

LEVELS: Final = 8
"""Drafters say how sure they are by numbers from 0 up to, not including, this."""


@dataclass(frozen=True)
class Guess:
    """A token that may come next.

    Attributes:
        level: how sure the drafter is. What a level is worth is measured.
        seconds: that it took to make, also where that was while something else was awaited.
    """

    token: int
    level: int
    seconds: float = 0.0


class Drafter(Protocol):
    """Guesses for one answer, whose ids only grow."""

    def guesses(self, ids: Sequence[int]) -> AsyncGenerator[Guess]:
        """What follows `ids`, token after token, each as if those before it were right; ends where it has no idea.

        Whoever takes them closes it as soon as further guesses are of no use.
        """

    def away(self, ids: Sequence[int]) -> None:
        """These ids, guesses included, are on their way: if all are right, what follows them is asked for next.

        Called where there is time to make guesses meanwhile.
        """

    async def aclose(self) -> None:
        """Frees what it holds; it is not used again."""
