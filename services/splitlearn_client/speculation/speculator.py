"""Decides for one answer what to guess, and how much of it to send along."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from splitlearn.engine.speculation import Speculation
from splitlearn_client.speculation.acceptance import Seen, of_all_answers
from splitlearn_client.speculation.draft_length import DraftLength, at_once
from splitlearn_client.speculation.drafter import Drafter
from splitlearn_client.speculation.track_record import TrackRecord
from splitlearn_client.speculation.trip_cost import DraftCost, TripCost

_SPARE: Final = 2.0
"""How many times as long as the next guesses take to make a token has to wait, so that they are made meanwhile."""


@dataclass
class Source:
    """What guesses in one answer, and how it does."""

    drafter: Drafter
    record: TrackRecord

    async def fill(self, draft: DraftLength, ids: Sequence[int]) -> tuple[int, ...]:
        """Takes guesses at what follows `ids` into the draft, as many as pay, and returns them."""
        async with aclosing(self.drafter.guesses(ids)) as coming:
            async for guess in coming:
                if not self.record.is_taken(guess, draft):
                    break
        return tuple(guess.token for guess in self.record.made[: draft.length])


@dataclass
class Speculator:
    """Of one answer.

    Attributes:
        sources: make the guesses.
        trip: what one takes, in all answers.
        most: guesses in a trip, at most.
        rounds: whether guesses may change how a row is rounded.
        paced: see `DraftLength`.
    """

    sources: Sequence[Source]
    trip: TripCost
    most: int
    rounds: bool = False
    paced: Callable[[float], float] = at_once

    def may_guess(self, found: Speculation) -> bool:
        """Whether guesses may run in a session whose parts allow this."""
        return found is Speculation.EXACT or (self.rounds and found is Speculation.ROUNDED)

    async def guesses(self, ids: Sequence[int], most: int, n_others: int) -> tuple[int, ...]:
        """Guesses at what follows `ids`, of the source whose give most tokens a second, and as many as pay.

        Args:
            most: guesses that are of use, at most.
            n_others: sessions that share the steps.
        """
        for source in self.sources:
            source.record.made = []
        if (most := min(most, self.most)) <= 0:
            return ()
        plain, per_guess = self.trip.plain, self.trip.per_guess
        is_due = self.trip.is_due(n_others)
        if plain is None:
            # nobody knows how long it will take, and a small model has the whole prompt to read
            for source in self.sources:
                source.drafter.away(ids)
            return ()
        # what a guess takes to make counts until it is made
        drafts: list[tuple[Source, DraftLength]] = []
        for source in self.sources:
            cost = source.record.cost.seconds
            delay = 0.0 if is_due else self.trip.delay + cost
            drafts.append((source, DraftLength(plain, per_guess + cost, most, n_others, self.paced, delay)))
        asked: list[Source] = []
        best: DraftLength | None = None
        guesses: tuple[int, ...] = ()
        for source, draft in sorted(drafts, key=lambda each: each[0].record.rank(each[1]), reverse=True):
            if not source.record.is_asked(draft, best):
                continue
            asked.append(source)
            made = await source.fill(draft, ids)
            ready = replace(draft, per_guess=per_guess)
            if made and (best is None or ready.rate > best.rate):
                best, guesses = ready, made
        if is_due and not guesses:
            self.trip.not_tried()
        # what was not asked now will hardly be asked next, and meanwhile others need the device too; what will be asked
        # may have a whole prompt to read before
        for source in (each for each in self.sources if each in asked or each.record.is_due):
            if self.paced(plain) > _SPARE * (most + 1) * source.record.cost.seconds:
                source.drafter.away([*ids, *guesses])
        return guesses

    def chosen(self, tokens: Sequence[int]) -> None:
        """These tokens were chosen next."""
        for source in self.sources:
            source.record.learn(tokens)

    def ran(self, n_guesses: int, seconds: float, computing: float = 0.0) -> None:
        """A trip of one row and so many guesses took so long, of which so much was computing."""
        self.trip.learn(n_guesses, seconds, computing)

    async def aclose(self) -> None:
        """Frees what the drafters hold, also if one of them fails."""
        async with AsyncExitStack() as stack:
            for source in self.sources:
                stack.push_async_callback(source.drafter.aclose)


@dataclass
class Method:
    """A way to guess, and what all answers together know of it.

    Attributes:
        new_drafter: makes the drafter of an answer that has at most so many rows.
    """

    new_drafter: Callable[[int], Drafter]
    _cost: DraftCost = field(default_factory=DraftCost)
    _typical: Seen = field(default_factory=of_all_answers)

    def new(self, most_rows: int) -> Source:
        """Of a new answer with at most so many rows."""
        return Source(self.new_drafter(most_rows), TrackRecord(self._cost, self._typical))


@dataclass
class Speculators:
    """Of a client service: makes those of its answers, which share what a trip costs.

    Attributes:
        methods: that are asked for guesses; where two promise as much, the first of them.
        most: guesses in a trip, at most.
        rounds: whether guesses may change how a row is rounded.
        paced: see `DraftLength`.
    """

    methods: Sequence[Method]
    most: int
    rounds: bool = False
    paced: Callable[[float], float] = at_once
    _trip: TripCost = field(default_factory=TripCost)

    def new(self, most_rows: int) -> Speculator:
        """Of a new answer with at most so many rows, its prompt's included."""
        sources = [method.new(most_rows) for method in self.methods]
        return Speculator(sources, self._trip, self.most, self.rounds, self.paced)
