import pytest
from splitlearn.engine.positions import rows_to_drop
from splitlearn.errors import ContextExceeded, PositionNotReached


def test_rows_at_the_end_drop_nothing() -> None:
    assert rows_to_drop(position=5, n_rows=3, reached=5, limit=8) == 0


def test_a_resend_drops_what_it_replaces() -> None:
    assert rows_to_drop(position=2, n_rows=3, reached=5, limit=8) == 3


def test_no_rows_truncate() -> None:
    assert rows_to_drop(position=0, n_rows=0, reached=5, limit=None) == 5


@pytest.mark.parametrize("position", [6, -1])
def test_a_position_beyond_the_end_is_refused_with_the_ones_that_are_possible(position: int) -> None:
    with pytest.raises(PositionNotReached, match="0 to 5"):
        rows_to_drop(position, 1, reached=5, limit=None)


def test_rows_past_the_limit_are_refused_even_when_they_replace_others() -> None:
    with pytest.raises(ContextExceeded, match="limit is 8"):
        rows_to_drop(position=4, n_rows=5, reached=6, limit=8)
