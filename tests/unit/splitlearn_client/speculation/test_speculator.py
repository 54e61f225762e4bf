from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest

from splitlearn.engine.scheduler import MAX_DECODE_ROWS
from splitlearn.engine.speculation import Speculation
from splitlearn_client.frame_shape import FrameShape
from splitlearn_client.settings import ClientSettings
from splitlearn_client.speculation.drafter import Guess
from splitlearn_client.speculation.prompt_lookup import PromptLookup
from splitlearn_client.speculation.speculator import Method, Speculators


@dataclass
class Counting:
    """Guesses that numbers go on; each guess takes some seconds.

    Attributes:
        n_asked: how often it was asked.
        sent: what is on its way, if it was told.
    """

    seconds: float = 0.0
    sent: Sequence[int] = ()
    n_asked: int = 0
    is_closed: bool = False

    async def guesses(self, ids: Sequence[int]) -> AsyncGenerator[Guess]:
        self.n_asked += 1
        for token in count(ids[-1] + 1):
            yield Guess(token, 7, self.seconds)

    def away(self, ids: Sequence[int]) -> None:
        self.sent = [*ids]

    async def aclose(self) -> None:
        self.is_closed = True


@dataclass
class Made:
    """A speculator with what it is made of; `interval` is its frames', in seconds."""

    drafter: Counting = field(default_factory=Counting)
    interval: float = 0.0

    def __post_init__(self) -> None:
        paced = FrameShape(interval=self.interval).paced
        self.speculators = Speculators([Method(lambda _most_rows: self.drafter)], 4, paced=paced)
        self.speculator = self.speculators.new(100)


async def test_nothing_is_guessed_before_a_trip_was_measured() -> None:
    made = Made()
    assert await made.speculator.guesses([1], 9, 0) == ()
    made.speculator.ran(0, 0.1)
    assert await made.speculator.guesses([1], 9, 0) == (2, 3, 4, 5)
    # another answer's trips are as long
    assert await made.speculators.new(100).guesses([1], 9, 0) == (2, 3, 4, 5)


async def test_the_drafter_hears_what_is_on_its_way() -> None:
    made = Made()
    await made.speculator.guesses([1], 9, 0)
    assert made.drafter.sent == [1]
    made.speculator.ran(0, 0.1)
    await made.speculator.guesses([1], 2, 0)
    assert made.drafter.sent == [1, 2, 3]


async def test_the_drafter_does_not_hear_of_trips_that_are_too_short_for_it() -> None:
    made = Made(Counting(seconds=0.02))
    made.speculator.ran(0, 0.1)
    assert await made.speculator.guesses([1], 2, 0) == (2, 3)
    assert made.drafter.sent == ()


async def test_the_drafter_hears_of_short_trips_where_a_frame_waits_for_its_time() -> None:
    made = Made(Counting(seconds=0.02), interval=0.5)
    made.speculator.ran(0, 0.01)
    assert await made.speculator.guesses([1], 2, 0) == (2, 3)
    assert made.drafter.sent == [1, 2, 3]


@pytest.mark.parametrize("most", [-1, 0, 2])
async def test_no_more_is_guessed_than_is_of_use(most: int) -> None:
    made = Made()
    made.speculator.ran(0, 0.1)
    assert len(await made.speculator.guesses([1], most, 0)) == max(0, most)


async def test_guesses_among_others_are_tried_in_one_of_33_steps_and_sent_once_they_delay_nobody() -> None:
    made, n_others, found = Made(), 3, list[bool]()
    made.speculator.ran(0, 0.1, 0.1)
    for _ in range(33 * (n_others + 1)):
        sent = await made.speculator.guesses([1], 7, n_others)
        found.append(bool(sent))
        made.speculator.ran(len(sent), 0.1, 0.1)
        made.speculator.chosen([2, 3, 4, 5])
    assert found == [False] * (len(found) - 1) + [True]
    assert await made.speculator.guesses([1], 7, n_others)


async def test_guesses_that_delay_others_are_not_sent_between_tries() -> None:
    made, n_others, n_sent = Made(), 3, 0
    made.speculator.ran(0, 0.1, 0.1)
    for _ in range(33 * (n_others + 1) * 5):
        sent = await made.speculator.guesses([1], 7, n_others)
        n_sent += bool(sent)
        seconds = 0.1 + 0.02 * len(sent)
        made.speculator.ran(len(sent), seconds, seconds)
        made.speculator.chosen([2, 3, 4, 5])
    assert n_sent == 5


async def test_wrong_guesses_are_no_longer_sent_and_right_ones_are_again() -> None:
    made = Made()
    made.speculator.ran(0, 0.01)
    for chosen, is_sent in ((99, False), (2, True)):
        for _ in range(200):
            sent = await made.speculator.guesses([1], 7, 0)
            # what was not sent is compared too
            made.speculator.chosen([chosen])
        assert bool(sent) is is_sent


async def test_guesses_behind_a_wrong_one_say_nothing() -> None:
    made, other = Made(), Made()
    for each, chosen in ((made, [2, 9]), (other, [2, 9, 5, 6])):
        each.speculator.ran(0, 0.1)
        await each.speculator.guesses([1], 4, 0)
        each.speculator.chosen(chosen)
    probabilities = [each.speculator.sources[0].record._acceptance.probability(7) for each in (made, other)]
    assert probabilities[0] == probabilities[1]


async def test_a_drafter_that_costs_more_than_it_saves_is_asked_now_and_then() -> None:
    made = Made()
    made.drafter.seconds = 0.02
    made.speculator.ran(0, 0.01)
    for _ in range(320):
        await made.speculator.guesses([1], 4, 0)
        made.speculator.chosen([99])
    assert 5 <= made.drafter.n_asked <= 20
    # now each saves a trip that takes long
    for _ in range(100):
        made.speculator.ran(0, 10.0)
    for _ in range(100):
        sent = await made.speculator.guesses([1], 4, 0)
        made.speculator.chosen([2, 3, 4, 5])
    assert len(sent) == 4


@pytest.mark.parametrize(("interval", "n_sent"), [(0.0, 0), (0.5, 4)])
async def test_guesses_cost_nothing_while_their_frame_waits_for_its_time(interval: float, n_sent: int) -> None:
    made = Made(Counting(seconds=0.02), interval)
    made.speculator.ran(0, 0.01)
    for _ in range(8):
        sent = await made.speculator.guesses([1], 4, 0)
        made.speculator.chosen([2, 3, 4, 5])
        made.speculator.ran(len(sent), 0.01)
    assert len(sent) == n_sent


async def test_guesses_that_make_their_frame_miss_its_time_cost_an_interval() -> None:
    n_sent: dict[float, int] = {}
    for interval in (0.0, 0.1):
        made = Made(interval=interval)
        made.speculator.ran(0, 0.099)
        # a single one can at most double what comes of a trip that takes twice as long
        n_sent[interval] = len(await made.speculator.guesses([1], 1, 0))
    assert n_sent == {0.0: 1, 0.1: 0}


async def test_the_end_of_an_answer_is_that_of_its_drafter() -> None:
    made = Made()
    await made.speculator.aclose()
    assert made.drafter.is_closed


@pytest.mark.parametrize(
    ("found", "rounds", "may"),
    [
        (Speculation.EXACT, False, True),
        (Speculation.ROUNDED, False, False),
        (Speculation.ROUNDED, True, True),
        (Speculation.NONE, True, False),
    ],
)
def test_guesses_run_where_they_change_nothing_or_rounding_is_allowed(
    found: Speculation, rounds: bool, may: bool
) -> None:
    assert Speculators([Method(PromptLookup)], 4, rounds).new(9).may_guess(found) is may


def test_the_settings_allow_as_many_guesses_as_a_step_takes() -> None:
    assert ClientSettings.model_fields["num_speculative_tokens"].default == MAX_DECODE_ROWS - 1
