import pytest

from splitlearn.engine.speculation import Speculation, rows_named


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (("exact", "exact"), "exact"),
        (("exact", "rounded", "exact"), "rounded"),
        (("none", "exact"), "none"),
        (("rounded",), "rounded"),
    ],
)
def test_a_model_allows_what_its_weakest_part_allows(parts: tuple[str, ...], whole: str) -> None:
    assert Speculation.of(*map(Speculation.named, parts)) == whole


@pytest.mark.parametrize("name", [None, "", "EXACT", "whatever"])
def test_an_unknown_name_allows_nothing(name: str | None) -> None:
    assert Speculation.named(name) is Speculation.NONE


@pytest.mark.parametrize(
    ("text", "n_rows"),
    [("640", 640), ("0", 0), (None, 0), ("", 0), ("-1", 0), ("1e3", 0), ("9" * 400, 0), ("\u0663", 0)],
)
def test_rows_that_are_not_told_as_a_number_are_none(text: str | None, n_rows: int) -> None:
    assert rows_named(text) == n_rows
