import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitlearn_client.parsing.json_scan import JSONScan

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def scanned(text: str, *, step: int = 1000) -> tuple[int, bool, bool]:
    """How far a text is a value, and whether that is complete, and broken."""
    scan, place = JSONScan(), 0
    while place < len(text) and not scan.is_done and not scan.is_broken:
        end = min(place + step, len(text))
        reached = scan.feed(text[:end], place)
        if reached == place:
            break
        place = reached
    return place, scan.is_done, scan.is_broken


@given(VALUES, st.booleans(), st.integers(1, 3))
def test_a_value_ends_where_it_ends(value: Any, ascii_only: bool, step: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1 if step == 2 else None)
    # a number's end is seen by what follows
    assert scanned(text + " }tail", step=step)[0] == len(text)
    assert scanned(text + " }tail", step=step)[1:] == (True, False)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": }', 6),
        ("{a: 1}", 1),
        ('{"a" 1}', 5),
        ('{"a": 1,}', 8),
        ("[1 2]", 3),
        ("[1,]", 3),
        ('["a\nb"]', 3),
        (r'["\x"]', 3),
        (r'["\u00g0"]', 6),
        # a number is judged at its end
        ("[01]", 3),
        ("[1.]", 3),
        ("[-]", 2),
        ("[tru1]", 4),
        ("[nul]", 4),
        ("{]", 1),
        ("}", 0),
        ("[" * 200, 100),
    ],
)
def test_it_breaks_at_the_character_that_is_not_json(text: str, place: int) -> None:
    assert scanned(text) == (place, False, True)
    assert scanned(text, step=1) == (place, False, True)


def test_a_value_that_is_not_complete_is_neither_done_nor_broken() -> None:
    whole = '{"a": [1.5e3, "x\\u00e9\\"", true, null], "b": {}}'
    for length in range(1, len(whole)):
        assert scanned(whole[:length]) == (length, False, False)
