import json

import pytest

from client_service.serving.json_size import MOST_VALUES, has_too_many_values


@pytest.mark.parametrize("value", [[], {}, "", [1], {"a": 1}, "\\", '"', "\n"])
def test_strings_lists_and_objects_are_counted(value: object) -> None:
    per_value = {str: 1, list: 1, dict: 1 + len(value) if isinstance(value, dict) else 0}[type(value)]
    fits = (MOST_VALUES - 1) // per_value
    assert not has_too_many_values(json.dumps([value] * fits).encode())
    assert has_too_many_values(json.dumps([value] * (fits + 1)).encode())


@pytest.mark.parametrize(
    "value",
    [
        [5] * (4 * MOST_VALUES),
        "[" * (4 * MOST_VALUES),
        '"' * (4 * MOST_VALUES),
        "\\" * (4 * MOST_VALUES),
        "{}, " * MOST_VALUES,
        ['\n"[]' * MOST_VALUES],
    ],
    ids=["token ids", "brackets", "quotes", "backslashes", "code", "escapes"],
)
def test_what_stands_in_a_text_and_numbers_are_not(value: object) -> None:
    assert not has_too_many_values(json.dumps({"prompt": value}).encode())


@pytest.mark.parametrize("text", [b"[" * (2 * MOST_VALUES), b'"' * (4 * MOST_VALUES), b'{"a":' * MOST_VALUES])
def test_what_is_not_json_is_counted_all_the_same(text: bytes) -> None:
    assert has_too_many_values(text)


def test_a_text_that_does_not_end_is_one() -> None:
    assert not has_too_many_values(b'"' + b"\\[" * (2 * MOST_VALUES))
