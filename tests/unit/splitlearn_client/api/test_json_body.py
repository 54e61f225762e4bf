import json
from contextlib import suppress
from json import JSONDecodeError
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitlearn_client.api.json_body import ApiRoute, strict_json, strict_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def refusal(body: bytes, content_type: str = "") -> JSONDecodeError:
    with pytest.raises(JSONDecodeError) as refused:
        strict_json(body, content_type)
    return refused.value


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(VALUES)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    assert strict_json(json.dumps(value).encode()) == value
    assert strict_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary())
def test_whatever_comes_is_read_or_refused_as_no_json(body: bytes) -> None:
    # nothing else is raised
    with suppress(JSONDecodeError):
        strict_json(body)


def test_a_byte_order_mark_is_left_out() -> None:
    assert strict_json(b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
def test_other_encodings_than_utf_8_are_refused(encoding: str) -> None:
    refusal('{"a": "é"}'.encode(encoding))


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_what_is_no_number_in_json_is_refused(number: bytes) -> None:
    assert number.decode() in refusal(b'{"temperature": ' + number + b"}").msg


def test_a_name_that_occurs_twice_is_refused() -> None:
    assert "'n' occurs twice" in refusal(b'[{"m": 1, "n": {"m": 2}, "n": 3}]').msg


@pytest.mark.parametrize("depth", [101, 500, 5_000, 500_000])
@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_what_is_nested_deeper_than_any_request_is_refused(depth: int, opened: bytes, closed: bytes) -> None:
    assert "levels deep" in refusal(opened * depth + b"1" + closed * depth).msg


def test_a_hundred_levels_are_read() -> None:
    strict_json(b"[" * 100 + b"]" * 100)


def test_a_number_of_more_digits_than_python_converts_is_refused() -> None:
    assert "digits" in refusal(b"[" + b"1" * 5000 + b"]").msg
    assert strict_json(b"1" * 4000) == int("1" * 4000)


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "nonsense"])
def test_a_charset_that_is_not_utf_8_is_refused_even_if_the_body_is(charset: str) -> None:
    assert "Content-Type" in refusal(b"{}", f"application/json; charset={charset}").msg


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "us-ascii", ""])
def test_utf_8_may_be_named(charset: str) -> None:
    assert strict_json(b"{}", f"application/json; charset={charset}") == {}


async def test_what_answers_get_answers_head_and_nothing_else_does() -> None:
    routes = APIRouter(route_class=ApiRoute)

    @routes.get("/get")
    async def get() -> str:
        return "got"

    @routes.post("/post")
    async def post() -> str:
        return "posted"

    app = FastAPI()
    app.include_router(routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.head("/get")).status_code == 200
        assert (await client.head("/post")).status_code == 405


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a"',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": [1e999]}',
        '"\ud800"',
    ],
)
def test_what_is_no_strict_object_is_none(text: str) -> None:
    assert strict_object(text) is None


def test_a_strict_object_is_read() -> None:
    assert strict_object('{"a": ["ü"]}') == {"a": ["ü"]}
