import json

import pytest

from splitlearn_client.api.prompt_fields import MOST_PROMPTS
from splitlearn_client.serving.json_size import MOST_OF_INPUTS, MOST_VALUES, MostIds, excess

UNLIMITED = MostIds.of(None)


def has_too_many_values(text: bytes, most: MostIds = UNLIMITED) -> bool:
    return excess(text, most) is not None


@pytest.mark.parametrize("value", [[], {}, "", 1, 1.5, [1], {"a": 1}, "\\", '"', "\n", ","])
@pytest.mark.parametrize("key", ["stop", "messages", "prompts", "p"])
def test_lists_of_anything_are_counted(key: str, value: object) -> None:
    per_value = 2 if isinstance(value, list | dict) else 1
    # two brackets around them, and one comma less than values
    fits = (MOST_VALUES - 1) // per_value
    assert not has_too_many_values(json.dumps({key: [value] * fits}).encode())
    assert has_too_many_values(json.dumps({key: [value] * (fits + 1)}).encode())


@pytest.mark.parametrize("value", [[], {}, "", 1.5, [1], "1"])
def test_lists_of_anything_but_ids_are_counted_in_a_prompt_too(value: object) -> None:
    assert has_too_many_values(json.dumps({"prompt": [value] * 2 * MOST_VALUES}).encode())


def test_an_input_for_embeddings_may_have_more_lists_of_token_ids_than_a_prompt() -> None:
    lists = [list(range(140))] * 2000
    assert not has_too_many_values(json.dumps({"model": "m", "input": lists}).encode())
    assert has_too_many_values(json.dumps({"input": [[*range(140)]] * 2500}).encode())
    assert has_too_many_values(json.dumps({"input": ["x"] * 2 * MOST_VALUES}).encode())


def test_keys_are_counted() -> None:
    assert has_too_many_values(json.dumps({str(i): 0 for i in range(2 * MOST_VALUES)}).encode())


@pytest.mark.parametrize("layout", [None, 0])
def test_a_prompt_of_token_ids_may_be_long(layout: int | None) -> None:
    ids = list(range(4 * MOST_VALUES))
    assert not has_too_many_values(json.dumps({"model": "m", "prompt": ids, "n": 1}, indent=layout).encode())
    assert has_too_many_values(json.dumps({"prompt": ids, "stop": ids}).encode())


@pytest.mark.parametrize("layout", [None, 0])
def test_lists_of_token_ids_may_be_long_together(layout: int | None) -> None:
    lists = [list(range(2 * MOST_VALUES // 128))] * 128
    assert not has_too_many_values(json.dumps({"model": "m", "prompt": lists, "n": 1}, indent=layout).encode())
    assert has_too_many_values(json.dumps({"stop": lists}).encode())


@pytest.mark.parametrize("n_lists", [1, 100])
@pytest.mark.parametrize(
    ("name", "context", "most"),
    [
        ("prompt", None, 2**20),
        ("prompt", 10**6, 2**20),
        ("prompt", 1024, 1024 * MOST_PROMPTS),
        ("input", None, MOST_OF_INPUTS),
        ("input", 1024, MOST_OF_INPUTS),
    ],
)
def test_token_ids_are_counted_too(name: str, context: int | None, most: int, n_lists: int) -> None:
    def body(n_ids: int) -> bytes:
        each = b"[" + b"1," * (n_ids // n_lists) + b"1]"
        return b'{"%b":[' % name.encode() + b",".join([each] * n_lists) + b"]}"

    assert excess(body(most - n_lists), MostIds.of(context)) is None
    assert excess(body(most + n_lists), MostIds.of(context)) == f"{most} token ids in its {name}s"


def test_as_many_prompts_as_a_request_has_may_fill_the_context() -> None:
    body = json.dumps({"prompt": [list(range(512))] * MOST_PROMPTS}).encode()
    assert not has_too_many_values(body, MostIds.of(512))
    assert has_too_many_values(body, MostIds.of(500))


def test_more_lists_of_token_ids_than_are_taken_are_counted() -> None:
    assert has_too_many_values(json.dumps({"prompt": [[1]] * MOST_VALUES}).encode())


@pytest.mark.parametrize(
    "text",
    ["[" * 4, '"' * 4, "\\" * 4, "{}, ", '\n"[],', '"prompt":[', "\\u005b["],
    ids=["brackets", "quotes", "backslashes", "code", "escapes", "prompts", "more escapes"],
)
def test_what_stands_in_a_text_is_not_counted(text: str) -> None:
    assert not has_too_many_values(json.dumps({"prompt": text * MOST_VALUES}).encode())


@pytest.mark.parametrize("text", [b"[" * (2 * MOST_VALUES), b'{"a":' * (2 * MOST_VALUES), b"," * (2 * MOST_VALUES)])
def test_what_is_not_json_is_counted_all_the_same(text: bytes) -> None:
    assert has_too_many_values(text)


def test_a_text_that_does_not_end_is_one() -> None:
    assert not has_too_many_values(b'"' + b"\\[" * (2 * MOST_VALUES))
