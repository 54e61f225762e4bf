import pytest
import torch

from splitlearn_comm.errors import InvalidRequest, InvalidTensor, PositionNotReached, SessionTooLong
from splitlearn_comm.frames import Frame, reached_after


def frame(position: int, row_count: int) -> Frame:
    return Frame(position, torch.zeros(row_count, 4))


@pytest.mark.parametrize(
    ("arriving", "reached", "after"),
    [
        (frame(0, 5), 0, 5),
        (frame(5, 1), 5, 6),
        (frame(2, 1), 5, 3),
        (frame(4, 1), 5, 5),
        (Frame(2, None), 5, 2),
        (Frame(5, None), 5, 5),
        (frame(0, 8), 8, 8),
    ],
    ids=["first", "append", "rewind and append", "resend", "truncate", "truncate to the end", "fill"],
)
def test_a_frame_keeps_the_rows_before_its_position_and_appends_its_own(
    arriving: Frame, reached: int, after: int
) -> None:
    assert reached_after(arriving, reached=reached, max_length=8) == after


@pytest.mark.parametrize("arriving", [frame(6, 1), Frame(6, None)])
def test_a_position_beyond_the_reached_one_is_refused_with_both(arriving: Frame) -> None:
    with pytest.raises(PositionNotReached, match=r"position 6, .*reached only 5; resend from position 5"):
        reached_after(arriving, reached=5, max_length=8)


def test_rows_beyond_the_opened_length_are_refused_with_both() -> None:
    with pytest.raises(SessionTooLong, match=r"4 rows at position 5 make 9, .*at most 8"):
        reached_after(frame(5, 4), reached=5, max_length=8)


def test_a_negative_position_is_no_frame() -> None:
    with pytest.raises(InvalidRequest, match="never negative, got -1"):
        Frame(-1, None)


@pytest.mark.parametrize("shape", [(), (4,), (1, 2, 4)])
def test_rows_that_are_not_two_dimensional_are_no_frame(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidTensor, match=r"shape \[rows, width\], got"):
        Frame(0, torch.zeros(shape))
