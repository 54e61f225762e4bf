import pytest

from splitlearn.hub.patience import Patience, retry_after_of


def test_a_line_that_broke_after_some_bytes_is_taken_up_at_once() -> None:
    assert Patience().wait(0) == 0


def test_waits_double_until_patience_ends() -> None:
    patience = Patience(most=5, first=0.5)
    assert [patience.wait(failures) for failures in range(1, 6)] == [0.5, 1, 2, 4, None]


def test_no_wait_is_longer_than_a_minute() -> None:
    assert Patience(most=100).wait(50) == 60
    assert Patience().wait(1, retry_after=86400) == 60


def test_the_hub_says_how_long_it_wants_to_be_left_alone_but_not_that_it_is_asked_for_ever() -> None:
    assert Patience(most=3).wait(1, retry_after=7) == 7
    assert Patience(most=3).wait(3, retry_after=7) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), (None, None), ("", None), ("-1", None), ("soon", None), ("9" * 12, None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)  # fmt: skip
def test_seconds_are_read_and_nothing_else(header: str | None, seconds: float | None) -> None:
    assert retry_after_of(header) == seconds
