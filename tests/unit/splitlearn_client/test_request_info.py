from typing import Any

import pytest

from splitlearn_client.request_info import RequestInfo, info_of, read_info
from splitlearn_comm import RequestContext


def scope(**headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "headers": raw}


def test_a_request_keeps_its_id_and_its_trace() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    found = read_info(scope(x_request_id="req-1", traceparent=traceparent, host="localhost"))
    assert found.context == RequestContext("req-1", traceparent)


@pytest.mark.parametrize("header", [{}, {"x_request_id": ""}, {"x_request_id": "ü"}, {"x_request_id": "a b"}])
def test_a_request_without_a_usable_id_gets_one_that_is(header: dict[str, str]) -> None:
    made = read_info(scope(**header)).context
    assert RequestContext.read(made.metadata) == made != RequestContext()


def test_a_request_has_one_info_whoever_reads_it_first() -> None:
    request = scope()
    first = read_info(request)
    first.tenant = "acme"
    assert read_info(request) is info_of(request) is first


def test_tokenizing_is_timed_even_if_it_fails() -> None:
    info = RequestInfo()
    with pytest.raises(KeyError), info.tokenizing():
        raise KeyError("x")
    assert info.tokenized is not None
    assert info.began <= info.tokenized[0] <= info.tokenized[1]
