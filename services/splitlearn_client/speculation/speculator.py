"""Decides for one answer what to guess, and how much of it to send along."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from splitlearn.engine.speculation import Speculation
from splitlearn_client.speculation.acceptance import Seen, of_all_answers, of_one_answer
from splitlearn_client.speculation.draft_length import DraftLength, at_once
from splitlearn_client.speculation.drafter import LEVELS, Drafter, Guess
from splitlearn_client.speculation.trip_cost import DraftCost, TripCost

_ASKED_AGAIN: Final = 32
"""Tokens after which a drafter is asked that costs more than it saved."""
_SPARE: Final = 2.0
"""How many times as long as the next guesses take to make a token has to wait, so that they are made meanwhile."""


@dataclass
class Costs:
    """Of all answers: what a trip takes, and what a guess takes to make."""

    trip: TripCost = field(default_factory=TripCost)
    draft: DraftCost = field(default_factory=DraftCost)


@dataclass
class Speculator:
    """Of one answer.

    Attributes:
        drafter: makes the guesses.
        costs: of all answers.
        most: guesses in a trip, at most.
        typical: how often guesses are right in all answers.
        rounds: whether guesses may change how a row is rounded.
        paced: see `DraftLength`.
    """

    drafter: Drafter
    costs: Costs
    most: int
    typical: Seen
    rounds: bool = False
    paced: Callable[[float], float] = at_once
    _acceptance: Seen = field(init=False)
    _made: list[Guess] = field(default_factory=list)
    _n_skipped: int = 0

    def __post_init__(self) -> None:
        self._acceptance = of_one_answer(self.typical)

    def may_guess(self, found: Speculation) -> bool:
        """Whether guesses may run in a session whose parts allow this."""
        return found is Speculation.EXACT or (self.rounds and found is Speculation.ROUNDED)

    async def guesses(self, ids: Sequence[int], most: int, n_others: int) -> tuple[int, ...]:
        """Guesses at what follows `ids`, as many as pay.

        Args:
            most: guesses that are of use, at most.
            n_others: sessions that share the steps.
        """
        self._made = []
        plain, per_guess = self.costs.trip.plain, self.costs.trip.per_guess + self.costs.draft.seconds
        if (most := min(most, self.most)) <= 0:
            return ()
        if plain is None:
            # nobody knows how long it will take, and the small model has the whole prompt to read
            self.drafter.away(ids)
            return ()
        length = DraftLength(plain, per_guess, most, n_others, self.paced)
        if not self._pays_to_ask(replace(length)):
            return ()
        async with aclosing(self.drafter.guesses(ids)) as coming:
            async for guess in coming:
                self.costs.draft.learn(guess.seconds)
                self._made.append(guess)
                if not length.takes(self._acceptance.probability(guess.level)) or length.length == most:
                    break
        guesses = tuple(guess.token for guess in self._made[: length.length])
        # meanwhile others need the device too
        if length.seconds(0) > _SPARE * (most + 1) * self.costs.draft.seconds:
            self.drafter.away([*ids, *guesses])
        return guesses

    def chosen(self, tokens: Sequence[int]) -> None:
        """These tokens were chosen next. They say how good the guesses were, whether those ran or not."""
        for guess, token in zip(self._made, tokens, strict=False):
            right = guess.token == token
            for acceptance in (self._acceptance, self.typical):
                acceptance.learn(guess.level, right=right)
            if not right:
                break

    def ran(self, n_guesses: int, seconds: float) -> None:
        """A trip of one row and so many guesses took so long."""
        self.costs.trip.learn(n_guesses, seconds)

    async def aclose(self) -> None:
        """Frees what the drafter holds."""
        await self.drafter.aclose()

    def _pays_to_ask(self, length: DraftLength) -> bool:
        """Whether asking the drafter saves as much time as it takes, or it is time to see whether it does.

        It does where a first guess is right often enough, and the surest guesses would be sent.
        """
        surest = max(self._acceptance.probability(level) for level in range(LEVELS))
        saved = self._acceptance.overall * length.seconds(0)
        if (saved >= self.costs.draft.seconds and length.takes(surest)) or self._n_skipped == _ASKED_AGAIN:
            self._n_skipped = 0
            return True
        self._n_skipped += 1
        return False


@dataclass
class Speculators:
    """Of a client service: makes those of its answers, which share what a trip costs.

    Attributes:
        new_drafter: makes the drafter of an answer that has at most so many rows.
        most: guesses in a trip, at most.
        rounds: whether guesses may change how a row is rounded.
        paced: see `DraftLength`.
    """

    new_drafter: Callable[[int], Drafter]
    most: int
    rounds: bool = False
    paced: Callable[[float], float] = at_once
    _costs: Costs = field(default_factory=Costs)
    _typical: Seen = field(default_factory=of_all_answers)

    def new(self, most_rows: int) -> Speculator:
        """Of a new answer with at most so many rows, its prompt's included."""
        drafter = self.new_drafter(most_rows)
        return Speculator(drafter, self._costs, self.most, self._typical, self.rounds, self.paced)
