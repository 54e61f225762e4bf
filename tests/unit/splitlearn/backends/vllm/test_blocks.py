from random import Random

import pytest

from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.vllm.blocks import NULL_BLOCK, BlockPool, SessionBlocks
from splitlearn.errors import NoRoom, PositionNotReached, SessionClosed

ROWS = 4


def pool(n_blocks: int = 9) -> BlockPool:
    return BlockPool(n_blocks, ROWS)


def holding(of: BlockPool, n_rows: int) -> SessionBlocks:
    session = SessionBlocks()
    of.reserve([SequenceSlice(session, 0, n_rows)])
    return session


def test_no_session_gets_the_null_block_nor_one_that_another_holds() -> None:
    blocks = pool()
    sessions = [holding(blocks, n_rows) for n_rows in (1, 4, 5, 13)]
    held = [block for session in sessions for block in session.blocks]
    assert len(held) == blocks.total == 8
    assert sorted(held) == list(range(1, 9))
    assert NULL_BLOCK not in held


def test_where_too_few_are_free_no_session_gets_any() -> None:
    blocks = pool()
    first = holding(blocks, 5)
    second = SessionBlocks()
    with pytest.raises(NoRoom, match=r"7 blocks are wanted, 6 of 8 are free"):
        blocks.reserve([SequenceSlice(first, 5, 4), SequenceSlice(second, 0, 24)])
    assert (first.n_rows, len(first.blocks), second.blocks) == (5, 2, [])
    assert blocks.check_consistency([first, second]) is None


def test_truncated_rows_give_their_blocks_back_and_vllm_forgets_the_request() -> None:
    blocks = pool()
    session = holding(blocks, 14)
    session.request, session.n_known = "1", 4
    blocks.truncate(session, 14)
    assert session.request == "1"
    blocks.truncate(session, 5)
    assert (session.request, session.n_known, len(session.blocks), blocks.n_free) == (None, 0, 2, 6)
    assert blocks.finished == {"1"}


def test_sessions_that_begin_alike_share_blocks_until_one_writes_to_the_last() -> None:
    blocks = pool()
    cached = holding(blocks, 11)
    session = SessionBlocks()
    blocks.share(session, cached, 7)
    assert session.blocks == cached.blocks[:2]
    assert blocks.n_free == 5
    copies = blocks.reserve([SequenceSlice(session, 7, 1)])
    assert copies == {session.blocks[1]: cached.blocks[1]}
    assert session.blocks[0] == cached.blocks[0]
    assert blocks.reserve([SequenceSlice(session, 8, 1)]) == {}
    assert blocks.check_consistency([cached, session]) is None


def test_whole_blocks_are_shared_without_a_copy() -> None:
    blocks = pool()
    cached = holding(blocks, 8)
    session = SessionBlocks()
    blocks.share(session, cached, 8)
    assert blocks.reserve([SequenceSlice(session, 8, 2)]) == {}
    assert session.blocks[:2] == cached.blocks


def test_the_last_one_of_those_who_leave_a_block_in_one_step_keeps_it() -> None:
    blocks = pool(n_blocks=4)
    cached = holding(blocks, 3)
    sessions = [SessionBlocks(), SessionBlocks()]
    for session in sessions:
        blocks.share(session, cached, 3)
    blocks.release(cached)
    shared = cached.blocks[0]
    copies = blocks.reserve([SequenceSlice(session, 3, 1) for session in sessions])
    assert copies == {sessions[0].blocks[0]: shared}
    assert sessions[1].blocks == [shared]
    assert blocks.check_consistency(sessions) is None


def test_a_released_session_takes_no_rows_and_gives_those_that_it_keeps() -> None:
    blocks = pool()
    cached = holding(blocks, 10)
    blocks.release(cached, 8)
    with pytest.raises(SessionClosed):
        blocks.reserve([SequenceSlice(cached, 8, 1)])
    session = SessionBlocks()
    with pytest.raises(PositionNotReached, match="evicted"):
        blocks.share(session, cached, 9)
    blocks.share(session, cached, 8)
    blocks.release(cached)
    blocks.collect()
    assert blocks.check_consistency([session]) is None
    assert blocks.n_free == 6


def test_rows_beyond_those_held_are_refused() -> None:
    blocks = pool()
    session = holding(blocks, 5)
    with pytest.raises(PositionNotReached, match="holds 5 rows, not 6"):
        blocks.reserve([SequenceSlice(session, 6, 1)])


@pytest.mark.parametrize("seed", range(40))
def test_blocks_never_get_lost_nor_counted_twice_whatever_sessions_do(seed: int) -> None:
    random, blocks = Random(seed), pool(n_blocks=24)
    sessions: list[SessionBlocks] = []
    cached: list[SessionBlocks] = []
    for _ in range(300):
        act = random.randrange(6)
        if act == 0 or not sessions:
            sessions.append(SessionBlocks())
        elif act == 1:
            session = sessions.pop(random.randrange(len(sessions)))
            kept = random.randint(0, session.n_rows)
            blocks.release(session, kept)
            if kept:
                cached.append(session)
        elif act == 2 and cached:
            blocks.release(cached.pop(random.randrange(len(cached))))
        elif act == 3 and cached:
            source = random.choice(cached)
            blocks.collect()
            blocks.share(random.choice(sessions), source, random.randint(0, source.n_rows))
        else:
            chosen = random.sample(sessions, random.randint(1, len(sessions)))
            slices = [SequenceSlice(each, random.randint(0, each.n_rows), random.randint(1, 9)) for each in chosen]
            before = {id(each): list(each.blocks) for each, _, _ in slices}
            try:
                copies = blocks.reserve(slices)
            except NoRoom:
                assert all(each.blocks == before[id(each)][: len(each.blocks)] for each in chosen)
            else:
                written = [block for each, start, _ in slices for block in each.blocks[start // ROWS :]]
                assert len(set(written)) == len(written)
                assert set(copies) <= set(written)
                everyone = [*sessions, *cached]
                assert all(sum(block in one.blocks for one in everyone) == 1 for block in written)
        blocks.collect()
        assert blocks.check_consistency([*sessions, *cached]) is None
    for each in [*sessions, *cached]:
        blocks.release(each)
    blocks.collect()
    assert blocks.n_free == blocks.total
