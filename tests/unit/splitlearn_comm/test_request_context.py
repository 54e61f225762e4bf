import pytest

from splitlearn_comm import RequestContext

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_what_is_written_is_what_is_read() -> None:
    context = RequestContext("req-1", TRACEPARENT, "vendor=1")
    assert RequestContext.read(context.metadata) == context
    assert RequestContext().metadata == ()


def test_headers_come_as_bytes_and_other_fields_are_left_alone() -> None:
    fields = [("user-agent", b"secret"), ("x-request-id", b"req-1"), ("traceparent", TRACEPARENT.encode())]
    assert RequestContext.read(fields).metadata == (("x-request-id", "req-1"), ("traceparent", TRACEPARENT))


def test_of_a_repeated_field_the_first_counts() -> None:
    assert RequestContext.read([("x-request-id", "first"), ("x-request-id", "second")]).request_id == "first"


@pytest.mark.parametrize("text", ["a", "a" * 128, "0b5c:/req=7;x@(y)", "~!#$%&+,-.<>?[]^_{|}"])
def test_a_word_of_visible_ascii_is_a_request_id(text: str) -> None:
    assert RequestContext.read([("x-request-id", text)]).request_id == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 129,
        "two words",
        "a\nb",
        "a\tb",
        'say "hi"',
        "it's",
        "`",
        "back\\slash",
        "über",
        "\x1b[31m",
        "\x7f",
        "a\n",
    ],
)
def test_any_other_text_is_no_request_id(text: str) -> None:
    assert RequestContext.read([("x-request-id", text)]) == RequestContext()
    assert RequestContext.read([("x-request-id", text.encode())]) == RequestContext()


@pytest.mark.parametrize(
    "text",
    [
        TRACEPARENT.upper(),
        TRACEPARENT + "-x",
        TRACEPARENT + "\n",
        "01" + TRACEPARENT[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        "",
    ],
)
def test_a_malformed_traceparent_counts_as_missing_and_its_tracestate_with_it(text: str) -> None:
    fields = [("x-request-id", "a"), ("traceparent", text), ("tracestate", "vendor=1")]
    assert RequestContext.read(fields) == RequestContext("a")


@pytest.mark.parametrize("text", ["a" * 513, "a=\x00"])
def test_a_malformed_tracestate_counts_as_missing(text: str) -> None:
    fields = [("traceparent", TRACEPARENT), ("tracestate", text)]
    assert RequestContext.read(fields) == RequestContext("", TRACEPARENT)
