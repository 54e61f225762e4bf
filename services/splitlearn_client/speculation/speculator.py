"""Decides for one answer what to guess, and how much of it to send along."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from splitlearn.engine.speculation import Speculation
from splitlearn_client.speculation.acceptance import Seen, of_all_answers, of_one_answer
from splitlearn_client.speculation.draft_length import best_length
from splitlearn_client.speculation.drafter import Draft, Drafter
from splitlearn_client.speculation.trip_cost import TripCost


@dataclass
class Speculator:
    """Of one answer.

    Attributes:
        drafter: makes the guesses.
        cost: of all answers.
        most: guesses in a trip, at most.
        typical: how often guesses are right in all answers.
        rounds: whether guesses may change how a row is rounded.
    """

    drafter: Drafter
    cost: TripCost
    most: int
    typical: Seen
    rounds: bool = False
    _acceptance: Seen = field(init=False)
    _draft: Draft = field(default_factory=Draft)

    def __post_init__(self) -> None:
        self._acceptance = of_one_answer(self.typical)

    def may_guess(self, found: Speculation) -> bool:
        """Whether guesses may run in a session whose parts allow this."""
        return found is Speculation.EXACT or (self.rounds and found is Speculation.ROUNDED)

    def guesses(self, ids: Sequence[int], most: int, n_others: int) -> tuple[int, ...]:
        """Guesses at what follows `ids`, as many as pay.

        Args:
            most: guesses that are of use, at most.
            n_others: sessions that share the steps.
        """
        self._draft, plain = Draft(), self.cost.plain
        if plain is None or (most := min(most, self.most)) <= 0:
            return ()
        draft = self.drafter.draft(ids, most)
        if not draft.guesses:
            return ()
        probability = self._acceptance.probability(draft.level)
        length = best_length(probability, plain, self.cost.per_guess, len(draft.guesses), n_others)
        if not length:
            # of all answers too: one of them has to try again some day
            self._acceptance.forget(draft.level)
            self.typical.forget(draft.level)
        self._draft = Draft(draft.guesses[:length], draft.level)
        return self._draft.guesses

    def learn(self, n_guesses: int, n_right: int, seconds: float) -> None:
        """The first `n_guesses` of the last guesses ran beside one row, in so many seconds; `n_right` were right.

        Must not be called where other rows ran too, or something failed on the way: that says nothing of a trip.
        """
        if n_guesses:
            for acceptance in (self._acceptance, self.typical):
                acceptance.learn(self._draft.level, n_guesses, n_right)
        self.cost.learn(n_guesses, seconds)


@dataclass
class Speculators:
    """Of a client service: makes those of its answers, which share what a trip costs.

    Attributes:
        new_drafter: makes the drafter of an answer.
        most: guesses in a trip, at most.
        rounds: whether guesses may change how a row is rounded.
    """

    new_drafter: Callable[[], Drafter]
    most: int
    rounds: bool = False
    _cost: TripCost = field(default_factory=TripCost)
    _typical: Seen = field(default_factory=of_all_answers)

    def new(self) -> Speculator:
        """Of a new answer."""
        return Speculator(self.new_drafter(), self._cost, self.most, self._typical, self.rounds)
