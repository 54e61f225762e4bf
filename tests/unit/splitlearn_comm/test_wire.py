import math
from dataclasses import replace

import grpc
import pytest
import torch

from splitlearn_comm import statuses, wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.core import CODECS, Int8Codec, SessionOpening, TensorCodec
from splitlearn_comm.errors import (
    ERRORS_BY_KIND,
    CommError,
    InvalidReply,
    InvalidRequest,
    InvalidTensor,
    NotServed,
    Overloaded,
    RemoteFailure,
    TimedOut,
    UnknownCodec,
    Unreachable,
)
from splitlearn_comm.frames import Frame, Reply, ServiceInfo
from splitlearn_comm.load import ServiceLoad
from splitlearn_comm.messages import parse
from splitlearn_comm.options import MAX_MESSAGE_BYTES

OPENING = SessionOpening("one", "print", 64)


def request(data: bytes) -> pb2.StreamRequest:
    return parse(pb2.StreamRequest(), data)


def test_one_request_carries_an_open_and_a_frame() -> None:
    rows_TD = torch.randn(3, 4).bfloat16()

    message = request(wire.encode_request(OPENING, Frame(7, rows_TD)))

    assert wire.read_opening(message) == OPENING
    frame = wire.read_frame(message).decode()
    assert frame.position == 7
    assert frame.rows is not None
    assert frame.rows.dtype is torch.bfloat16
    assert torch.equal(frame.rows, rows_TD)


def test_a_truncating_frame_has_no_rows_and_an_empty_one_keeps_its_width() -> None:
    truncating = wire.read_frame(request(wire.encode_request(None, Frame(7, None)))).decode()
    empty = wire.read_frame(request(wire.encode_request(None, Frame(7, torch.empty(0, 4))))).decode()

    assert (truncating.position, truncating.rows) == (7, None)
    assert empty.rows is not None
    assert empty.rows.shape == (0, 4)


def test_the_size_of_a_frame_does_not_tell_its_position() -> None:
    rows_TD = torch.zeros(8, 4)
    frames = [Frame(position, rows_TD) for position in (1, 127, 128, 2**14, 2**40)]

    assert len({len(wire.encode_request(None, frame)) for frame in frames}) == 1
    assert len({len(wire.encode_reply(Reply(frame, 0.1, 0.2))) for frame in frames}) == 1


def test_a_reply_carries_rows_and_times() -> None:
    reply = wire.decode_reply(wire.encode_reply(Reply(Frame(2, torch.ones(1, 4)), 0.25, 0.5)))

    assert (reply.frame.position, reply.queue_seconds, reply.compute_seconds) == (2, 0.25, 0.5)
    assert torch.equal(reply.frame.rows, torch.ones(1, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
def test_rows_travel_in_any_codec_and_say_in_which(codec: TensorCodec) -> None:
    rows_TD = torch.full((8, 128), 1.5)

    data = wire.encode_request(None, Frame(7, rows_TD), codec)
    frame = wire.read_frame(request(data)).decode()
    reply = wire.decode_reply(wire.encode_reply(Reply(frame), codec))

    assert request(data).frame.rows.codec == pb2.Codec.Value(f"CODEC_{codec.name.upper()}")
    assert torch.equal(reply.frame.rows, rows_TD)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
def test_an_opening_names_its_codec(codec: str) -> None:
    opening = SessionOpening("one", "print", 64, codec)

    assert wire.read_opening(request(wire.encode_request(opening, Frame(0, None)))) == opening


def test_a_codec_from_the_future_is_refused_with_what_is_known() -> None:
    opening = pb2.Open(max_length=1)
    opening.MergeFromString(bytes([4 << 3, 9]))

    with pytest.raises(UnknownCodec, match="codec number 9; this end knows none, zlib, bf16, fp16, int8"):
        wire.read_opening(pb2.StreamRequest(open=opening))
    with pytest.raises(UnknownCodec, match="unknown codec 'lz4'"):
        wire.encode_request(SessionOpening("one", "print", 64, "lz4"), Frame(0, None))


def test_a_compute_asks_for_its_replys_codec_and_its_reply_carries_times() -> None:
    x = torch.full((2, 64), 3.0)

    tensor, asked = wire.decode_compute(wire.encode_compute(x, Int8Codec()))
    computed = wire.decode_computed(wire.encode_computed(wire.Computed(tensor, 0.25, 0.5), Int8Codec()))

    assert asked == "int8"
    assert torch.equal(computed.tensor, x)
    assert (computed.queue_seconds, computed.compute_seconds) == (0.25, 0.5)


def test_a_compute_without_a_reply_is_no_reply() -> None:
    with pytest.raises(InvalidReply, match="neither a tensor nor an error"):
        wire.decode_computed(b"")


@pytest.mark.parametrize("kind", ERRORS_BY_KIND.values())
def test_every_error_in_band_is_raised_as_itself(kind: type[CommError]) -> None:
    for decode, data in (
        (wire.decode_reply, wire.encode_error(kind("what went wrong"))),
        (wire.decode_computed, wire.encode_compute_error(kind("what went wrong"))),
    ):
        with pytest.raises(CommError, match=r"^what went wrong$") as caught:
            decode(data)

        assert type(caught.value) is kind


@pytest.mark.parametrize("kind", ERRORS_BY_KIND.values())
def test_every_error_as_a_status_is_raised_as_itself(kind: type[CommError]) -> None:
    status = statuses.status_of(kind("what went wrong"))

    error = statuses.error_of(status, "host:1")

    assert status[0].name == kind.code
    assert type(error) is kind
    assert str(error) == "what went wrong"


def test_a_servers_own_subclass_arrives_as_the_class_that_both_ends_know() -> None:
    class OutOfPages(Overloaded):
        pass

    assert type(statuses.error_of(statuses.status_of(OutOfPages("full")), "host:1")) is Overloaded


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
        (grpc.StatusCode.CANCELLED, Unreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimedOut),
        (grpc.StatusCode.UNIMPLEMENTED, NotServed),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, InvalidRequest),
        (grpc.StatusCode.INTERNAL, RemoteFailure),
        (grpc.StatusCode.UNKNOWN, RemoteFailure),
    ],
)
def test_a_status_of_grpc_itself_names_the_address_and_its_details(
    code: grpc.StatusCode, kind: type[CommError]
) -> None:
    error = statuses.error_of((code, "the reason", ()), "host:1")

    assert type(error) is kind
    assert "host:1" in str(error)
    assert "the reason" in str(error)


def test_an_unknown_kind_falls_back_on_its_code() -> None:
    unknown = pb2.StreamReply(error=pb2.Error(code=pb2.CODE_DATA_LOSS, kind="Newer", message="m"))

    with pytest.raises(RemoteFailure, match=r"^DATA_LOSS: m$"):
        wire.decode_reply(unknown.SerializeToString())


@pytest.mark.parametrize("code", [77, pb2.CODE_UNKNOWN])
def test_a_code_from_the_future_is_unknown(code: int) -> None:
    unknown = pb2.StreamReply()
    unknown.error.MergeFromString(pb2.Error(message="m").SerializeToString() + bytes([8, code]))

    with pytest.raises(RemoteFailure, match=r"^UNKNOWN: m$"):
        wire.decode_reply(unknown.SerializeToString())


@pytest.mark.parametrize(
    ("message", "error", "complaint"),
    [
        (pb2.StreamRequest(), InvalidRequest, "must carry a frame"),
        (pb2.StreamRequest(frame=pb2.Frame(position=-3)), InvalidRequest, "never negative, got -3"),
        (pb2.StreamRequest(frame=pb2.Frame(rows=pb2.Tensor(dtype=99))), InvalidTensor, "number 99"),
        (pb2.StreamRequest(frame=pb2.Frame(rows=pb2.Tensor())), InvalidTensor, "number 0"),
        (
            pb2.StreamRequest(frame=pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_UINT8, shape=[4], data=bytes(4)))),
            InvalidTensor,
            r"\[rows, width\]",
        ),
    ],
)
def test_a_request_that_is_no_frame_is_refused(
    message: pb2.StreamRequest, error: type[CommError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        wire.read_frame(message)


@pytest.mark.parametrize("max_length", [0, -1])
def test_an_opening_without_room_is_refused(max_length: int) -> None:
    with pytest.raises(InvalidRequest, match="max_length is at least 1"):
        wire.read_opening(pb2.StreamRequest(open=pb2.Open(max_length=max_length)))


def test_bytes_of_another_protocol_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"3 bytes are not a splitlearn.comm.v1.StreamRequest"):
        request(b"\xff\xff\xff")


def test_a_message_above_the_limit_is_refused_with_both_sizes() -> None:
    rows = torch.zeros(1, MAX_MESSAGE_BYTES, dtype=torch.uint8)

    with pytest.raises(InvalidTensor, match=rf"a message of 671\d+ bytes exceeds the limit of {MAX_MESSAGE_BYTES}"):
        wire.encode_request(None, Frame(0, rows))


def test_service_info_comes_back_equal() -> None:
    info = ServiceInfo("trunk", "1.2", "cuda:0", "print", {"layers": "2-22"}, 7, 1.5, ServiceLoad(3, 1, 640, 64), "me")

    assert wire.decode_info(wire.encode_info(info)) == info
    assert wire.decode_info(wire.encode_info(replace(info, load=None))).load is None


@pytest.mark.parametrize(
    "load", [ServiceLoad(running_sessions=-1), ServiceLoad(total_rows=-1), ServiceLoad(total_rows=5, free_rows=6)]
)
def test_a_load_that_cannot_be_is_the_server_s_error(load: ServiceLoad) -> None:
    with pytest.raises(InvalidReply, match="load is impossible"):
        wire.decode_info(wire.encode_info(ServiceInfo("s", "1", "cpu", load=load)))


@pytest.mark.parametrize("field", ["asks_first", "refused_elsewhere"])
def test_an_opening_says_whether_it_asks_first_and_was_refused_elsewhere(field: str) -> None:
    opening = replace(OPENING, **{field: True})
    assert wire.read_opening(request(wire.encode_request(opening, None))) == opening


def test_an_opening_with_hashes_or_one_that_asks_first_has_a_reply() -> None:
    assert not OPENING.has_reply
    assert replace(OPENING, asks_first=True).has_reply
    assert replace(OPENING, block_hashes=(b"n",)).has_reply


@pytest.mark.parametrize("opened_at", [-1.0, math.inf, math.nan])
def test_an_opening_at_an_impossible_time_is_refused(opened_at: float) -> None:
    message = pb2.StreamRequest(open=pb2.Open(max_length=1, opened_at=opened_at))
    with pytest.raises(InvalidRequest, match="cannot have been opened at"):
        wire.read_opening(message)


@pytest.mark.parametrize("field", ["tenant", "passed_on_for"])
@pytest.mark.parametrize("text", ["t" * (wire.LONGEST_OWNER_ID + 1), "a\nb", "\u00e9"])
def test_an_id_of_an_owner_that_is_not_short_and_printable_is_refused_at_both_ends(field: str, text: str) -> None:
    message = pb2.StreamRequest(open=pb2.Open(max_length=1))
    setattr(message.open, field, text)
    with pytest.raises(InvalidRequest, match=field):
        wire.read_opening(message)
    with pytest.raises(InvalidRequest, match=field):
        wire.encode_request(replace(OPENING, **{field: text}), None)


def test_an_opening_keeps_the_ids_of_its_owner() -> None:
    opening = replace(OPENING, tenant="t" * wire.LONGEST_OWNER_ID, passed_on_for="p" * wire.LONGEST_OWNER_ID)
    assert wire.read_opening(request(wire.encode_request(opening, None))) == opening
