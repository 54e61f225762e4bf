"""Which of several drafters is asked. Times are in milliseconds."""

from dataclasses import replace

import pytest

from splitlearn_client.speculation.acceptance import of_all_answers
from splitlearn_client.speculation.draft_length import DraftLength
from splitlearn_client.speculation.drafter import LEVELS, Guess
from splitlearn_client.speculation.track_record import TrackRecord
from splitlearn_client.speculation.trip_cost import DraftCost

SURE = LEVELS - 1


def record(share: float, cost: float = 0.0) -> TrackRecord:
    """Of a drafter whose guesses were right that often, at any level."""
    found = TrackRecord(DraftCost(cost), of_all_answers())
    for n in range(100):
        for level in range(LEVELS):
            learn(found, level, right=7 * n % 20 < 20 * share)
    return found


def learn(found: TrackRecord, level: int, *, right: bool) -> None:
    found.made = [Guess(1, level)]
    found.learn([1 if right else 2])


def empty(cost: float, plain: float = 20.0, added: float = 0.2) -> DraftLength:
    return DraftLength(plain, added + cost, 7)


def filled(share: float) -> DraftLength:
    """Guesses that are there, and right that often."""
    draft = empty(0.0)
    while draft.takes(share) and draft.length < draft.most:
        pass
    return draft


def test_what_costs_nothing_is_asked_first_and_then_what_promises_most() -> None:
    kinds = {"poor": (0.3, 1.0), "dear": (0.9, 15.0), "good": (0.9, 1.0), "free": (0.1, 0.0), "better": (0.3, 0.0)}
    ranks = {name: record(*each).rank(empty(each[1])) for name, each in kinds.items()}
    assert sorted(ranks, key=ranks.__getitem__, reverse=True) == ["better", "free", "good", "poor", "dear"]


@pytest.mark.parametrize(
    ("share", "cost", "plain", "others", "is_asked"),
    [
        # there is nothing else
        (0.5, 1.0, 20.0, None, True),
        (0.05, 2.0, 20.0, None, False),
        (0.9, 30.0, 20.0, None, False),
        # a long match in a text that repeats itself
        (0.5, 1.0, 20.0, 0.9, False),
        (0.95, 0.2, 20.0, 0.6, True),
        # as good, and not as cheap
        (0.6, 0.5, 20.0, 0.6, False),
        # better, and too dear for a trip that short
        (0.95, 8.0, 20.0, 0.6, False),
        # what is free is compared when it is there
        (0.5, 0.0, 20.0, 0.9, True),
    ],
)
def test_a_drafter_is_asked_that_pays_and_promises_more_than_what_is_there(
    share: float, cost: float, plain: float, others: float | None, is_asked: bool
) -> None:
    best = None if others is None else filled(others)
    assert record(share, cost).is_asked(empty(cost, plain), best) is is_asked


def test_far_away_a_better_drafter_is_worth_its_time_that_is_not_near_by() -> None:
    for plain, is_asked in ((200.0, True), (10.0, False)):
        best = replace(filled(0.6), plain=plain)
        assert record(0.95, 4.0).is_asked(empty(4.0, plain), best) is is_asked


@pytest.mark.parametrize(("share", "cost", "others"), [(0.5, 1.0, 0.9), (0.05, 2.0, None)])
def test_a_drafter_that_does_not_pay_or_is_not_the_best_is_asked_now_and_then(
    share: float, cost: float, others: float | None
) -> None:
    found, best = record(share, cost), None if others is None else filled(others)
    asked = [found.is_asked(empty(cost), best) for _ in range(99)]
    assert asked == ([False] * 32 + [True]) * 3


def test_whether_to_ask_leaves_the_draft_empty() -> None:
    draft = empty(1.0)
    record(0.9, 1.0).is_asked(draft, None)
    record(0.9, 1.0).rank(draft)
    assert draft == empty(1.0)


def test_guesses_are_taken_while_they_pay_and_the_first_that_does_not_is_known_too() -> None:
    found, draft = record(0.9), empty(0.0)
    for _ in range(100):
        learn(found, 0, right=False)
    found.made = []
    assert [found.is_taken(Guess(token, level, 3.0), draft) for token, level in ((5, SURE), (6, SURE), (7, 0))] == [
        True,
        True,
        False,
    ]
    assert draft.length == 2
    assert [guess.token for guess in found.made] == [5, 6, 7]
    assert found.cost.seconds == pytest.approx(3.0)


def test_a_draft_that_is_full_takes_no_more() -> None:
    found, draft = record(1.0), replace(empty(0.0), most=2)
    assert [found.is_taken(Guess(1, SURE), draft) for _ in range(2)] == [True, False]
    assert draft.length == 2


def test_an_answer_s_record_is_the_service_s_too() -> None:
    typical = of_all_answers()
    for _ in range(20):
        found = TrackRecord(DraftCost(), typical)
        for _ in range(10):
            learn(found, SURE, right=False)
    assert typical.probability(SURE) < 0.1
