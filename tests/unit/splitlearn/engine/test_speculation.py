import pytest

from splitlearn.engine.speculation import Speculation


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
