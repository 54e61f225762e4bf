"""A drafter that knows what comes, so that a test says how many guesses are right."""

import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from splitlearn_client.speculation.drafter import Guess


@dataclass
class Informed:
    """Guesses what follows in texts that it knows; each guess is another token now and then. See `Drafter`.

    Attributes:
        share: of the guesses, that are right.
        vocabulary: ids of tokens that wrong guesses are drawn from.
        n_guesses: how many it makes, at least and at most.
    """

    texts: Sequence[Sequence[int]]
    share: float
    vocabulary: int
    n_guesses: tuple[int, int] = (0, 7)
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    async def guesses(self, ids: Sequence[int]) -> AsyncGenerator[Guess]:
        n_ids = len(ids)
        known = next((text for text in self.texts if list(text[:n_ids]) == list(ids)), ids)
        for right in known[n_ids : n_ids + self.dice.randint(*self.n_guesses)]:
            yield Guess(right if self.dice.random() < self.share else self.dice.randrange(3, self.vocabulary), 0)

    def away(self, ids: Sequence[int]) -> None:
        pass

    async def aclose(self) -> None:
        pass
