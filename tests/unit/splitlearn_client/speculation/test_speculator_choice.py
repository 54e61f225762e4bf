"""One answer's guesses come of the drafter that is best at that place, and all drafters learn from what is chosen."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import pytest

from splitlearn_client.speculation.acceptance import of_all_answers
from splitlearn_client.speculation.drafter import LEVELS, Guess
from splitlearn_client.speculation.speculator import Method, Source, Speculator
from splitlearn_client.speculation.track_record import TrackRecord
from splitlearn_client.speculation.trip_cost import DraftCost, TripCost

TRIP: Final = 0.02
MOST: Final = 7
SURE: Final = LEVELS - 1
LOOKED_UP: Final = range(100, 120)
MODELLED: Final = range(200, 220)


@dataclass
class Knowing:
    """Guesses these tokens, all equally sure.

    Attributes:
        n_asked: how often it was asked.
        sent: what is on its way, if it was told.
    """

    tokens: Sequence[int]
    level: int = SURE
    seconds: float = 0.0
    n_asked: int = 0
    sent: Sequence[int] = ()
    is_closed: bool = False

    async def guesses(self, _ids: Sequence[int]) -> AsyncGenerator[Guess]:
        self.n_asked += 1
        for token in self.tokens:
            yield Guess(token, self.level, self.seconds)

    def away(self, ids: Sequence[int]) -> None:
        self.sent = [*ids]

    async def aclose(self) -> None:
        self.is_closed = True


class FailsToClose(Knowing):
    async def aclose(self) -> None:
        raise ValueError("its last step failed")


def record(share: float, seconds: float) -> TrackRecord:
    """Of a drafter whose surest guesses were right that often."""
    found = TrackRecord(DraftCost(seconds), of_all_answers())
    for n in range(100):
        found.made = [Guess(1, SURE)]
        found.learn([1 if 7 * n % 20 < 20 * share else 2])
    return found


@dataclass
class Both:
    """A lookup and a model that guess for one answer.

    Attributes:
        shares: of their guesses, that were right so far.
    """

    shares: tuple[float, float] = (0.6, 0.6)
    seconds: float = 0.0005
    trip: float = TRIP
    looked_up: Sequence[int] = LOOKED_UP
    modelled: Sequence[int] = MODELLED
    speculator: Speculator = field(init=False)

    def __post_init__(self) -> None:
        self.lookup, self.model = Knowing(self.looked_up), Knowing(self.modelled, seconds=self.seconds)
        costs = (0.0, self.seconds)
        records = [record(*each) for each in zip(self.shares, costs, strict=True)]
        sources = [Source(*each) for each in zip((self.lookup, self.model), records, strict=True)]
        trip = TripCost()
        for n in range(60):
            trip.learn(n % 2, self.trip * (1 + 0.01 * (n % 2)))
        self.speculator = Speculator(sources, trip, MOST)

    async def sent(self, ids: Sequence[int] = (1,)) -> str:
        """Whose guesses are sent."""
        guesses = await self.speculator.guesses(ids, MOST, 0)
        whose = {"lookup": self.lookup, "model": self.model}
        return next((name for name, each in whose.items() if guesses and guesses[0] in each.tokens), "nobody")

    def probabilities(self) -> list[float]:
        return [source.record._acceptance.probability(SURE) for source in self.speculator.sources]


@pytest.mark.parametrize(
    ("lookup", "model", "seconds", "trip", "whose", "asks_model"),
    [
        # a long match, and a model that is right half the time
        (0.9, 0.5, 0.0005, TRIP, "lookup", False),
        (0.3, 0.9, 0.0005, TRIP, "model", True),
        # equally good: what costs nothing
        (0.6, 0.6, 0.0005, TRIP, "lookup", False),
        # a better model is too slow for a trip that short, and not for a long one
        (0.6, 0.9, 0.01, TRIP, "lookup", False),
        (0.6, 0.9, 0.01, 50 * TRIP, "model", True),
        # neither is of use, which a model does not have to be asked for
        (0.0, 0.0, 0.005, TRIP, "nobody", False),
    ],
)
async def test_the_drafter_is_asked_that_promises_most_tokens_a_second(
    lookup: float, model: float, seconds: float, trip: float, whose: str, asks_model: bool
) -> None:
    both = Both((lookup, model), seconds, trip)
    assert await both.sent() == whose
    assert bool(both.model.n_asked) is asks_model


@pytest.mark.parametrize(
    ("looked_up", "modelled", "whose"),
    [((), MODELLED, "model"), (LOOKED_UP, (), "lookup"), ((), (), "nobody"), (LOOKED_UP, MODELLED, "lookup")],
)
async def test_where_one_has_no_idea_the_other_is_asked(
    looked_up: Sequence[int], modelled: Sequence[int], whose: str
) -> None:
    assert await Both((0.9, 0.5), looked_up=looked_up, modelled=modelled).sent() == whose
    # also where the one without an idea promised more
    assert await Both((0.3, 0.9), looked_up=looked_up, modelled=()).sent() == ("lookup" if looked_up else "nobody")


async def test_where_guesses_do_not_pay_the_next_drafter_is_asked() -> None:
    both = Both((0.0, 0.5))
    assert await both.sent() == "model"
    assert both.lookup.n_asked == 1


async def test_a_model_that_is_less_sure_than_it_mostly_was_gives_way_to_the_lookup() -> None:
    both = Both((0.6, 0.9))
    both.model.level = 0
    # at that level nothing was seen yet, and a guess is taken to be right three times in ten
    assert await both.sent() == "lookup"
    assert both.model.n_asked == 1


async def test_the_time_that_guesses_took_counts_no_more_once_they_are_made() -> None:
    both = Both((0.6, 0.9), seconds=0.002)
    # three in four are right where none was seen: better than the lookup's, and hardly worth two milliseconds
    both.model.level = 5
    assert await both.sent() == "model"


@pytest.mark.parametrize(
    ("shares", "chosen", "grew"),
    [
        # the lookup's were sent, and the model was not asked
        ((0.9, 0.5), LOOKED_UP, (True, None)),
        ((0.9, 0.5), MODELLED, (False, None)),
        # the model's were sent, and the lookup's are compared too
        ((0.3, 0.9), MODELLED, (False, True)),
        ((0.3, 0.9), LOOKED_UP, (True, False)),
    ],
)
async def test_all_that_were_asked_learn_from_what_is_chosen(
    shares: tuple[float, float], chosen: Sequence[int], grew: Iterable[bool | None]
) -> None:
    both = Both(shares)
    await both.sent()
    before = both.probabilities()
    both.speculator.chosen(chosen[:2])
    for was, now, more in zip(before, both.probabilities(), grew, strict=True):
        assert now == was if more is None else (now > was) is more


async def test_guesses_of_an_earlier_place_are_not_learnt_from_again() -> None:
    both = Both((0.3, 0.9))
    await both.sent()
    both.lookup.tokens = ()
    both.speculator.chosen([])
    await both.sent()
    before = both.probabilities()
    both.speculator.chosen(LOOKED_UP[:2])
    assert both.probabilities()[0] == before[0]


async def test_a_lookup_that_becomes_good_takes_the_place_of_the_model_and_gives_it_back() -> None:
    both = Both((0.3, 0.6))
    for right, whose in ((LOOKED_UP, "lookup"), (MODELLED, "model")):
        for _ in range(200):
            sent = await both.sent()
            both.speculator.chosen(right[:3])
        assert sent == whose


async def test_the_model_hears_what_is_on_its_way_where_it_was_asked() -> None:
    both = Both((0.3, 0.9))
    await both.sent([1, 2])
    assert both.model.sent == [1, 2, *MODELLED[:MOST]]


async def test_the_model_hears_of_the_lookup_s_guesses_where_it_was_asked_and_had_worse() -> None:
    both = Both((0.6, 0.9))
    both.model.level = 0
    await both.sent([1, 2])
    assert both.model.sent[:3] == [1, 2, LOOKED_UP[0]]


async def test_a_model_that_is_not_needed_does_not_work_while_a_trip_is_away() -> None:
    both = Both((0.9, 0.5))
    await both.sent()
    assert both.model.sent == ()


async def test_a_model_that_is_going_to_be_asked_reads_what_it_has_not_seen_while_the_trip_before_is_away() -> None:
    both, found = Both((0.9, 0.5)), list[tuple[int, bool]]()
    for n in range(34):
        await both.sent([1, n])
        found.append((both.model.n_asked, both.model.sent[:2] == [1, n]))
    # it is told 31 times nothing, then what is on its way, and asked at the 33rd trip
    assert found[30:33] == [(0, False), (0, True), (1, True)]


async def test_before_a_trip_was_measured_all_read_the_prompt_meanwhile() -> None:
    both = Both()
    both.speculator.trip = TripCost()
    assert await both.sent([1, 2]) == "nobody"
    assert both.lookup.sent == both.model.sent == [1, 2]


async def test_the_end_of_an_answer_is_that_of_all_drafters_also_where_one_fails() -> None:
    drafters = [Knowing(()), FailsToClose(()), Knowing(())]
    speculator = Speculator([Method(lambda _most_rows, each=each: each).new(9) for each in drafters], TripCost(), MOST)
    with pytest.raises(ValueError, match="its last step failed"):
        await speculator.aclose()
    assert [each.is_closed for each in drafters] == [True, False, True]
