import pytest

from splitlearn_client.frame_shape import FrameShape


@pytest.mark.parametrize(
    ("n_rows", "n_guesses", "n_free", "padding"),
    [
        (None, 3, 100, 0),
        (8, 0, 100, 7),
        (8, 3, 100, 4),
        (8, 7, 100, 0),
        # the end of the session's room
        (8, 0, 2, 2),
        (8, 2, 2, 0),
        (8, 0, 0, 0),
    ],
)
def test_frames_are_filled_up_as_far_as_the_session_has_room(
    n_rows: int | None, n_guesses: int, n_free: int, padding: int
) -> None:
    assert FrameShape(n_rows).n_padding(n_guesses, n_free) == padding


@pytest.mark.parametrize(
    ("interval", "seconds", "paced"), [(0.0, 3.21, 3.21), (0.5, 0.1, 0.5), (0.5, 0.5, 0.5), (0.5, 1.3, 1.5)]
)
def test_a_frame_takes_until_a_multiple_of_the_interval(interval: float, seconds: float, paced: float) -> None:
    assert FrameShape(interval=interval).paced(seconds) == pytest.approx(paced)


@pytest.mark.parametrize(
    ("interval", "since_first", "pause"),
    [(0.0, 3.21, 0.0), (0.5, 0.1, 0.4), (0.5, 0.5, 0.0), (0.5, 1.3, 0.2), (2.0, 0.0, 0.0)],
)
def test_the_next_frame_waits_for_a_multiple_of_the_interval(interval: float, since_first: float, pause: float) -> None:
    assert FrameShape(interval=interval).pause(since_first) == pytest.approx(pause)
