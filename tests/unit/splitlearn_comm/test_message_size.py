"""The walk over a message against what protobuf finds in it."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.message_size import (
    MOST_BESIDE_DATA,
    MOST_FIELDS,
    NoMessageError,
    TooMuchBesideDataError,
    beside_data,
)

PATH = (2, 2, 3)
# what is not walked is counted whole
LONG = bytes(2**15)


def request(data: bytes, **fields: object) -> bytes:
    return pb2.StreamRequest(frame=pb2.Frame(rows=pb2.Tensor(data=data, **fields))).SerializeToString()  # type: ignore[arg-type]


def field(number: int, content: bytes) -> bytes:
    return pb2.Finish(block_hashes=[content]).SerializeToString().replace(b"\x0a", bytes((number << 3 | 2,)), 1)


def test_a_short_message_is_counted_whole() -> None:
    assert beside_data(b"anything at all") == 15
    assert beside_data(b"\xff" * 2**14, PATH) == 2**14


@pytest.mark.parametrize("size", [2**15, 2**18, 2**22])
def test_the_data_of_a_tensor_is_not_counted_wherever_it_stands(size: int) -> None:
    data, small = bytes(size), request(b"", shape=[1, 2], dtype=pb2.DTYPE_FLOAT32)
    assert beside_data(request(data, shape=[1, 2]), PATH) < 40
    assert beside_data(small + request(data) + small + request(data), PATH) < 80
    opening = pb2.StreamRequest(open=pb2.Open(session_id="one", block_hashes=[bytes(16)] * 1000)).SerializeToString()
    assert 18_000 < beside_data(opening + request(data), PATH) < 18_040


@pytest.mark.parametrize(
    "message",
    [
        pb2.StreamRequest(open=pb2.Open(block_hashes=[b""] * 1_000_000)),
        pb2.StreamRequest(open=pb2.Open(session_id="x" * 300_000)),
        pb2.StreamRequest(finish=pb2.Finish(block_hashes=[b""] * 1_000_000)),
        pb2.ServiceInfo(attributes={str(i): "" for i in range(50_000)}),
    ],
)
def test_more_than_a_message_may_have_beside_its_data_is_refused(message: pb2.StreamRequest) -> None:
    for path in (PATH, ()):
        with pytest.raises(TooMuchBesideDataError) as refused:
            beside_data(message.SerializeToString(), path)
        assert not refused.value.in_tensor


@pytest.mark.parametrize(
    ("message", "in_tensor"),
    [
        (request(b"", shape=[1] * 1_000_000), True),
        (field(2, field(2, field(3, b"") * 20_000)), True),
        (field(2, field(2, b"") * 20_000), False),
        (field(2, b"") * 20_000, False),
        (field(1, b"") * 20_000, False),
        (b"\x20\0" * 20_000, False),
    ],
    ids=["dimensions", "datas", "tensors", "frames", "opens", "unknown fields"],
)
def test_very_many_fields_are_refused_after_a_few(message: bytes, in_tensor: bool) -> None:
    with pytest.raises(TooMuchBesideDataError) as refused:
        beside_data(message, PATH)
    assert refused.value.in_tensor == in_tensor


def test_as_much_as_a_message_may_have_is_taken() -> None:
    head = field(1, bytes(MOST_BESIDE_DATA - 100 - (MOST_FIELDS - 5) * 2)) + b"\x20\0" * (MOST_FIELDS - 5)
    assert beside_data(head + request(LONG), PATH) <= MOST_BESIDE_DATA
    with pytest.raises(TooMuchBesideDataError):
        beside_data(head + b"\x20\0" * 3 + request(LONG), PATH)
    with pytest.raises(TooMuchBesideDataError):
        beside_data(head + field(1, bytes(200)) + request(LONG), PATH)


_WORDS = st.sampled_from(
    [b"\x12", b"\x1a", b"\x0a", b"\x08", b"\x0d", b"\x09", b"\x92\0", b"\x13", b"\x14", b"\x80", b"\0"]
)
_TAIL = request(LONG)


@given(st.lists(_WORDS | st.binary(max_size=3), max_size=12).map(b"".join))
@example(b"\x92\x80\x80\x80\x80\x80\x80\x80\x80\0\0")
@example(b"\x92\x80\x80\x80\x10\0")
@example(b"\x13\x14")
def test_what_is_not_walked_through_is_no_message_of_ours(head: bytes) -> None:
    """Nothing gets past the walk as data that is something else to protobuf."""
    message = head + _TAIL
    parsed: pb2.StreamRequest | None
    try:
        parsed = pb2.StreamRequest.FromString(message)
    except DecodeError:
        parsed = None
    try:
        n_bytes = beside_data(message, PATH)
    except NoMessageError:
        # groups, which no message of ours has
        assert parsed is None or 3 in {byte & 7 for byte in head}
        return
    except TooMuchBesideDataError:
        return
    if parsed is not None:
        assert len(message) - n_bytes <= sum(map(len, (parsed.frame.rows.data, head)))
