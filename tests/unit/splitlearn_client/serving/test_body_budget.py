import random

import pytest

from splitlearn_client.serving.body_budget import CHUNK, BodyBudget, BodyShare

FREE = 2**16


def moved(budget: BodyBudget, n_bytes: int, now: float = 0.0) -> BodyShare:
    share = budget.enter(now)
    share.add(n_bytes, now)
    assert budget.take(share)
    return share


def test_short_bodies_are_not_counted_and_all_others_share_one_limit() -> None:
    budget = BodyBudget(2 * CHUNK, 1.0)
    full = moved(budget, FREE + 2 * CHUNK)
    for _ in range(9):
        moved(budget, FREE)
    late = budget.enter(0.0)
    late.add(FREE + 1, 0.0)
    assert not budget.take(late)
    budget.leave(full)
    assert budget.take(late)
    assert (full.held, late.held) == (0, 1)


def asking(budget: BodyBudget, now: float) -> BodyShare:
    """A share that exceeds the budget, and waits."""
    share = budget.enter(now)
    share.add(1 << 30, now)
    assert not budget.take(share)
    share.waiting = True
    return share


@pytest.mark.parametrize(("now", "dropped"), [(0.99, False), (1.0, True)])
def test_an_upload_is_dropped_once_it_has_stalled(now: float, dropped: bool) -> None:
    budget = BodyBudget(CHUNK, 1.0)
    share = moved(budget, FREE + CHUNK)
    assert (budget.drop_slowest(asking(budget, now), now) is share) == dropped == share.dropped
    other = budget.enter(now)
    other.add(FREE + CHUNK, now)
    assert budget.take(other) == dropped


def test_a_few_bytes_are_no_progress() -> None:
    budget = BodyBudget(8 * CHUNK, 1.0)
    drips, moves = moved(budget, 2 * FREE), moved(budget, 2 * FREE)
    for tick in range(1, 11):
        drips.add(CHUNK // 11, tick / 10)
        moves.add(CHUNK // 10 + 1, tick / 10)
    late = asking(budget, 1.05)
    assert budget.drop_slowest(late, 1.05) is drips
    assert budget.drop_slowest(late, 1.05) is None


def test_the_slowest_upload_is_dropped_first_and_complete_bodies_never() -> None:
    budget = BodyBudget(99 * CHUNK, 1.0)
    moved(budget, FREE)
    whole = moved(budget, 2 * FREE)
    whole.uploading = False
    later, earlier, fresh = moved(budget, 2 * FREE, 2.0), moved(budget, 2 * FREE, 1.0), moved(budget, 2 * FREE, 8.5)
    late = asking(budget, 9.0)
    assert [budget.drop_slowest(late, 9.0) for _ in range(3)] == [earlier, later, None]
    fresh.waiting = True
    fresh.resume(9.4)
    assert budget.drop_slowest(late, 10.3) is None
    assert budget.drop_slowest(late, 10.4) is fresh
    # all that is left is being answered
    assert budget.drop_slowest(late, 10.4) is late


def test_if_all_uploads_wait_the_slowest_is_dropped_at_once() -> None:
    budget = BodyBudget(99 * CHUNK, 1.0)
    slow, quick = moved(budget, 2 * FREE, 9.4), moved(budget, 2 * FREE, 9.9)
    late = asking(budget, 9.7)
    slow.waiting = True
    assert budget.drop_slowest(late, 10.0) is None
    quick.waiting = True
    assert [budget.drop_slowest(late, 10.0) for _ in range(2)] == [slow, late]
    assert late.dropped
    assert not quick.dropped


@pytest.mark.parametrize("seed", range(20))
def test_after_all_requests_have_left_nothing_is_held(seed: int) -> None:
    draw = random.Random(seed)
    budget, here = BodyBudget(40 * CHUNK, 1.0), list[BodyShare]()
    for now in range(500):
        if draw.random() < 0.3 or not here:
            here.append(budget.enter(now))
        share = draw.choice(here)
        if not share.dropped:
            share.add(draw.randrange(4 * CHUNK), now)
            budget.take(share)
        if draw.random() < 0.2:
            budget.drop_slowest(share, now)
        if draw.random() < 0.2:
            budget.leave(here.pop(draw.randrange(len(here))))
        assert sum(each.held for each in here) <= 40 * CHUNK
    for share in here:
        budget.leave(share)
    moved(budget, FREE + 40 * CHUNK)
