import pytest

from splitlearn.engine.positions import check_position
from splitlearn.errors import ContextExceeded, PositionNotReached


@pytest.mark.parametrize(("position", "n_rows"), [(5, 3), (2, 3), (0, 8), (0, 0), (5, 0)])
def test_rows_may_begin_anywhere_up_to_the_end(position: int, n_rows: int) -> None:
    check_position(position, n_rows, reached=5, max_length=8)


@pytest.mark.parametrize("position", [6, -1])
def test_a_position_beyond_the_end_is_refused_with_the_ones_that_are_possible(position: int) -> None:
    with pytest.raises(PositionNotReached, match="0 to 5"):
        check_position(position, 1, reached=5, max_length=None)


def test_rows_past_the_limit_are_refused_even_when_they_replace_others() -> None:
    with pytest.raises(ContextExceeded, match="limit is 8"):
        check_position(position=4, n_rows=5, reached=6, max_length=8)


def test_without_a_limit_there_is_none() -> None:
    check_position(position=0, n_rows=10**9, reached=0, max_length=None)
