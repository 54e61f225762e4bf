from hypothesis import given
from hypothesis import strategies as st

from splitlearn_comm.peer_text import LONGEST, clipped


def test_ordinary_text_stays_as_it_is() -> None:
    assert clipped("Modell müller/größer: 2-22 bfloat16") == "Modell müller/größer: 2-22 bfloat16"


def test_what_would_change_the_terminal_or_the_line_is_escaped() -> None:
    assert clipped("a\nb\x1b[31m\u202e\x00") == "a\\nb\\x1b[31m\\u202e\\x00"


def test_long_text_says_how_long_it_was() -> None:
    assert clipped("x" * 5_000_000, 10) == "xxxxxxxxxx... (5000000 characters)"


@given(st.text(alphabet=st.characters(), max_size=2000))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str) -> None:
    line = clipped(text)
    assert line.isprintable()
    assert len(line) <= LONGEST + 40
