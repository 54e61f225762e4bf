import pytest

from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.vllm.blocks import BlockPool, SessionBlocks
from splitlearn.backends.vllm.step_plan import Piece, Planner, forwards


def planner(n_blocks: int = 20) -> tuple[BlockPool, Planner]:
    pool = BlockPool(n_blocks, 4)
    return pool, Planner(pool)


def test_a_session_is_told_once_and_then_only_what_is_new() -> None:
    _, plans = planner()
    session = SessionBlocks()
    first = plans.plan([SequenceSlice(session, 0, 5)])
    second = plans.plan([SequenceSlice(session, 5, 1)])
    third = plans.plan([SequenceSlice(session, 6, 3)])
    (told,), (row,), (more,) = first.rows, second.rows, third.rows
    assert (told.is_new, told.start, told.length, told.blocks) == (True, 0, 5, session.blocks[:2])
    assert (row.is_new, row.start, row.blocks) == (False, 5, [])
    assert (more.is_new, more.start, more.blocks) == (False, 6, session.blocks[2:])
    assert len({told.name, row.name, more.name}) == 1


def test_a_truncated_session_goes_on_as_another_request_in_its_own_blocks() -> None:
    _, plans = planner()
    session = SessionBlocks()
    first = plans.plan([SequenceSlice(session, 0, 10)])
    plan = plans.plan([SequenceSlice(session, 6, 1)])
    (row,) = plan.rows
    assert (row.is_new, row.start, row.blocks) == (True, 6, session.blocks)
    assert plan.finished == {first.rows[0].name} != {row.name}


def test_a_session_whose_block_is_copied_goes_on_as_another_request() -> None:
    pool, plans = planner()
    cached, session = SessionBlocks(), SessionBlocks()
    plans.plan([SequenceSlice(cached, 0, 6)])
    pool.release(cached, 6)
    pool.share(session, cached, 5)
    plan = plans.plan([SequenceSlice(session, 5, 1)])
    assert plan.copies == [(cached.blocks[1], session.blocks[1])]
    assert plan.rows[0].blocks == [cached.blocks[0], session.blocks[1]]


def test_after_a_failed_forward_sessions_hold_what_they_held_and_those_with_a_copy_nothing() -> None:
    pool, plans = planner()
    cached, sharing, other = SessionBlocks(), SessionBlocks(), SessionBlocks()
    plans.plan([SequenceSlice(cached, 0, 6), SequenceSlice(other, 0, 3)])
    pool.share(sharing, cached, 5)
    slices = [SequenceSlice(sharing, 5, 2), SequenceSlice(other, 3, 2)]
    plan = plans.plan(slices)
    plans.fail(slices, plan)
    assert (sharing.n_rows, other.n_rows, cached.n_rows) == (0, 3, 6)
    assert sharing.request is other.request is None
    assert pool.check_consistency([cached, sharing, other]) is None
    # vLLM may not have heard of what was finished
    assert plan.finished <= pool.finished


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3, 4], [[Piece(0, 0, 3), Piece(1, 0, 4)]]),
        ([8, 1], [[Piece(0, 0, 8)], [Piece(1, 0, 1)]]),
        ([5, 12, 1], [[Piece(0, 0, 5), Piece(1, 0, 3)], [Piece(1, 3, 8)], [Piece(1, 11, 1), Piece(2, 0, 1)]]),
        ([1, 1, 1, 1], [[Piece(0, 0, 1), Piece(1, 0, 1), Piece(2, 0, 1)], [Piece(3, 0, 1)]]),
    ],
)
def test_forwards_are_as_large_as_vllm_was_made_for(lengths: list[int], expected: list[list[Piece]]) -> None:
    assert list(forwards(lengths, max_rows=8, max_requests=3)) == expected
