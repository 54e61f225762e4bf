import random

import pytest

from client_service.serving.body_room import PIECE, Room, Share

FREE = 2**16


def moved(room: Room, n_bytes: int, now: float = 0.0) -> Share:
    share = room.enter(now)
    share.add(n_bytes, now)
    assert room.take(share)
    return share


def test_what_is_short_is_not_counted_and_all_else_has_one_bound() -> None:
    room = Room(2 * PIECE, 1.0)
    full = moved(room, FREE + 2 * PIECE)
    for _ in range(9):
        moved(room, FREE)
    late = room.enter(0.0)
    late.add(FREE + 1, 0.0)
    assert not room.take(late)
    room.leave(full)
    assert room.take(late)
    assert (full.held, late.held) == (0, 1)


def asking(room: Room, now: float) -> Share:
    """One who finds no room."""
    share = room.enter(now)
    share.add(1 << 30, now)
    assert not room.take(share)
    share.waiting = True
    return share


@pytest.mark.parametrize(("now", "gives_way"), [(0.99, False), (1.0, True)])
def test_an_upload_gives_way_once_it_has_stood_still(now: float, gives_way: bool) -> None:
    room = Room(PIECE, 1.0)
    share = moved(room, FREE + PIECE)
    assert (room.make_room(asking(room, now), now) is share) == gives_way == share.dropped
    other = room.enter(now)
    other.add(FREE + PIECE, now)
    assert room.take(other) == gives_way


def test_a_byte_now_and_then_is_no_progress() -> None:
    room = Room(8 * PIECE, 1.0)
    drips, moves = moved(room, 2 * FREE), moved(room, 2 * FREE)
    for tick in range(1, 11):
        drips.add(PIECE // 11, tick / 10)
        moves.add(PIECE // 10 + 1, tick / 10)
    late = asking(room, 1.05)
    assert room.make_room(late, 1.05) is drips
    assert room.make_room(late, 1.05) is None


def test_the_slowest_goes_first_and_nobody_who_is_answered_or_holds_nothing() -> None:
    room = Room(99 * PIECE, 1.0)
    moved(room, FREE)
    whole = moved(room, 2 * FREE)
    whole.uploading = False
    later, earlier, fresh = moved(room, 2 * FREE, 2.0), moved(room, 2 * FREE, 1.0), moved(room, 2 * FREE, 8.5)
    late = asking(room, 9.0)
    assert [room.make_room(late, 9.0) for _ in range(3)] == [earlier, later, None]
    fresh.waiting = True
    fresh.go_on(9.4)
    assert room.make_room(late, 10.3) is None
    assert room.make_room(late, 10.4) is fresh
    # all that is left is being answered
    assert room.make_room(late, 10.4) is late


def test_where_all_are_in_line_the_slowest_gives_way_at_once() -> None:
    room = Room(99 * PIECE, 1.0)
    slow, quick = moved(room, 2 * FREE, 9.4), moved(room, 2 * FREE, 9.9)
    late = asking(room, 9.7)
    slow.waiting = True
    assert room.make_room(late, 10.0) is None
    quick.waiting = True
    assert [room.make_room(late, 10.0) for _ in range(2)] == [slow, late]
    assert late.dropped
    assert not quick.dropped


@pytest.mark.parametrize("seed", range(20))
def test_after_everybody_has_left_the_room_is_empty(seed: int) -> None:
    draw = random.Random(seed)
    room, here = Room(40 * PIECE, 1.0), list[Share]()
    for now in range(500):
        if draw.random() < 0.3 or not here:
            here.append(room.enter(now))
        share = draw.choice(here)
        if not share.dropped:
            share.add(draw.randrange(4 * PIECE), now)
            room.take(share)
        if draw.random() < 0.2:
            room.make_room(share, now)
        if draw.random() < 0.2:
            room.leave(here.pop(draw.randrange(len(here))))
        assert sum(each.held for each in here) <= 40 * PIECE
    for share in here:
        room.leave(share)
    moved(room, FREE + 40 * PIECE)
