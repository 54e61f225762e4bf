from typing import Any

import pytest
from pydantic import ValidationError

from splitlearn_client.api.fields import TextFields


class Told(TextFields):
    told: Any


@pytest.mark.parametrize(
    ("told", "path"),
    [
        ("\ud800", ("told",)),
        (["a", "b\udfffc"], ("told", 1)),
        ({"a": [1, {"b": "\udabc"}]}, ("told", "a", 1, "b")),
        ({"\ud800": 1}, ("told",)),
        (["x"] * 48_000 + ["\ud800"], ("told", 48_000)),
    ],
)
def test_half_of_a_surrogate_pair_is_found_wherever_it_stands(told: Any, path: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError, match="half of a surrogate pair") as refused:
        Told.model_validate({"told": told})
    assert refused.value.errors()[0]["loc"] == path


@pytest.mark.parametrize(
    "told",
    ["\U00010000 \ud7ff \ue000", {"ü": ["é", 1.5, None, True]}, list(range(0xA000, 0xC000)), [0xA0ED, "a"]],
)
def test_all_other_values_are_taken_and_numbers_that_look_like_a_half_too(told: Any) -> None:
    assert Told.model_validate({"told": told}).told == told
