import io
from contextlib import redirect_stderr

import pytest

from splitlearn_cli.terminal import StatusLine, aligned, bytes_bar, human_bytes, note


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (988_097_824, "988 MB"), (1_234_567_890, "1.23 GB")],
)
def test_byte_counts_have_three_digits_and_a_decimal_unit(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_a_count_just_below_a_unit_takes_the_next() -> None:
    assert human_bytes(999_900) == "1 MB"


def test_columns_start_at_the_same_place_and_lines_end_without_blanks() -> None:
    assert aligned([("a", "bb", "c"), ("aaa", "b"), ("", "", "cc")]) == "a    bb  c\naaa  b\n         cc"


def test_a_bar_is_shown_on_a_terminal() -> None:
    with redirect_stderr(Terminal()) as terminal, bytes_bar("copying", 2000) as advance:
        advance(1500)
        advance(500)

    assert "copying: 100%" in terminal.getvalue()
    assert "2.00k/2.00k" in terminal.getvalue()


def test_a_bar_is_silent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with bytes_bar("copying", 2000) as advance:
        advance(2000)

    assert capsys.readouterr().err == ""


def test_a_note_is_dim_only_on_a_terminal() -> None:
    with redirect_stderr(Terminal()) as terminal:
        note("by the way")

    assert terminal.getvalue() == "\x1b[2mby the way\x1b[0m\n"


def test_a_status_takes_the_place_of_the_last_one_on_a_terminal() -> None:
    with redirect_stderr(Terminal()) as terminal:
        status = StatusLine()
        status.show("loading")
        status.show("loading")
        status.show("connecting")
        status.clear()

    assert terminal.getvalue() == "\r\x1b[Kloading ...\r\x1b[Kconnecting ...\r\x1b[K"


def test_a_status_is_one_line_for_each_text_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    status = StatusLine()
    status.show("loading")
    status.show("loading")
    status.show("connecting")
    status.clear()

    assert capsys.readouterr().err == "loading ...\nconnecting ...\n"
