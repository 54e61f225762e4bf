"""The only translation layer: frames, openings, computes and service info to protobuf bytes, errors to messages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from typing import Final

from torch import Tensor

from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.core import (
    PLAIN,
    EncodedTensor,
    SessionOpening,
    TensorCodec,
    codec_named,
    dtype_named,
    unpack,
)
from splitlearn_comm.errors import (
    CommError,
    InvalidReply,
    InvalidRequest,
    InvalidTensor,
    UnknownCodec,
)
from splitlearn_comm.frames import Frame, FrameHeader, Reply, ServiceInfo
from splitlearn_comm.load import ServiceLoad
from splitlearn_comm.messages import (
    begin_tensor,
    codec_name,
    codec_number,
    encoded_tensor,
    parse,
    serialize,
    serialize_with,
    takes_long_to_parse,
)
from splitlearn_comm.peer_text import clipped
from splitlearn_comm.statuses import read_error, write_error

SERVICE: Final = pb2.DESCRIPTOR.services_by_name["ComputeService"].full_name

_FRAME_ROWS: Final = (pb2.StreamRequest.FRAME_FIELD_NUMBER, pb2.Frame.ROWS_FIELD_NUMBER)
_REPLY_ROWS: Final = (pb2.StreamReply.FRAME_FIELD_NUMBER, pb2.Frame.ROWS_FIELD_NUMBER)
_INPUT: Final = (pb2.ComputeRequest.TENSOR_FIELD_NUMBER,)
_OUTPUT: Final = (pb2.ComputeReply.TENSOR_FIELD_NUMBER,)
# Limits on what one end says about itself to the other.
LONGEST_SESSION_ID: Final = 128
LONGEST_FINGERPRINT: Final = 1024
LONGEST_OWNER_ID: Final = 64
LONGEST_INSTANCE: Final = 64
MAX_BLOCK_HASH_BYTES: Final = 64
# at 16 bytes each, they fit in the bytes that a message may have beside its tensor
MAX_BLOCK_HASHES: Final = 2**13
_MOST_ATTRIBUTES: Final = 256
_LONGEST_ATTRIBUTE: Final = 2**14


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """The result of one compute: the output tensor, and the server's times in seconds."""

    tensor: Tensor
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


def encode_compute(tensor: Tensor, codec: TensorCodec) -> bytes:
    message = pb2.ComputeRequest(codec=codec_number(codec.name))
    return serialize_with(message, _INPUT, begin_tensor(message.tensor, tensor, codec))


def decode_compute(data: bytes) -> tuple[Tensor, str]:
    """The input tensor, and the codec that the client requests for the reply."""
    message = parse(pb2.ComputeRequest(), data, _INPUT)
    asked, encoded = codec_name(message.codec), encoded_tensor(message.tensor)
    return unpack(encoded), asked


def encode_computed(computed: Computed, codec: TensorCodec) -> bytes:
    message = pb2.ComputeReply()
    message.timing.queue_seconds = computed.queue_seconds
    message.timing.compute_seconds = computed.compute_seconds
    return serialize_with(message, _OUTPUT, begin_tensor(message.tensor, computed.tensor, codec))


def encode_compute_error(error: CommError) -> bytes:
    message = pb2.ComputeReply()
    write_error(message.error, error)
    return serialize(message)


def decode_computed(data: bytes) -> Computed:
    """Return the output tensor, or raise the error sent in its place; InvalidReply if the data is neither."""
    with _blaming_the_server():
        message = parse(pb2.ComputeReply(), data, _OUTPUT)
    if message.HasField("error"):
        raise read_error(message.error)
    with _blaming_the_server():
        if not message.HasField("tensor"):
            raise InvalidRequest("neither a tensor nor an error is in it")
        seconds = _read_timing(message.timing)
        return Computed(unpack(encoded_tensor(message.tensor)), *seconds)


def encode_request(opening: SessionOpening | None, frame: Frame | None, codec: TensorCodec = PLAIN) -> bytes:
    message = pb2.StreamRequest()
    if opening is not None:
        _check_opening(opening)
        message.open.session_id = opening.session_id
        message.open.fingerprint = opening.fingerprint
        message.open.max_length = opening.max_length
        message.open.codec = codec_number(opening.codec)
        message.open.block_hashes.extend(opening.block_hashes)
        message.open.opened_at = opening.opened_at
        message.open.tenant = opening.tenant
        message.open.asks_first = opening.asks_first
        message.open.refused_elsewhere = opening.refused_elsewhere
        message.open.passed_on_for = opening.passed_on_for
    if frame is None:
        return serialize(message)
    message.frame.position = frame.position
    if frame.rows is None:
        return serialize(message)
    return serialize_with(message, _FRAME_ROWS, begin_tensor(message.frame.rows, frame.rows, codec))


def is_expensive_request(data: bytes) -> bool:
    """Whether `parse_request` takes so long that other requests should get a turn in between."""
    return takes_long_to_parse(data, _FRAME_ROWS)


def parse_request(data: bytes) -> pb2.StreamRequest:
    """Raises InvalidRequest, InvalidTensor: the data is not a request, or exceeds a limit."""
    return parse(pb2.StreamRequest(), data, _FRAME_ROWS)


def read_session_codec(request: pb2.StreamRequest) -> TensorCodec | None:
    """The codec in the request's opening; None without one, or for a codec that this end does not know."""
    with suppress(UnknownCodec):
        return codec_named(codec_name(request.open.codec)) if request.HasField("open") else None
    return None


def read_opening(request: pb2.StreamRequest) -> SessionOpening:
    """The opening in a request; all of its lengths are within the limits.

    Raises:
        InvalidRequest, UnknownCodec: the request does not open a session.
    """
    if not request.HasField("open"):
        raise InvalidRequest("the first request of a stream must carry `open`")
    if request.HasField("finish"):
        raise InvalidRequest("the first request of a stream carries no `finish`: there is no session to finish yet")
    message = request.open
    _check_opening(message)
    return SessionOpening(
        message.session_id,
        message.fingerprint,
        message.max_length,
        codec_name(message.codec),
        tuple(message.block_hashes),
        message.opened_at,
        message.tenant,
        message.asks_first,
        message.refused_elsewhere,
        message.passed_on_for,
    )


def read_finish(request: pb2.StreamRequest, opening: SessionOpening) -> tuple[bytes, ...]:
    """The hashes of the blocks to cache.

    Raises:
        InvalidRequest: the request also has a frame, or the hashes are invalid.
    """
    if request.HasField("frame"):
        raise InvalidRequest("a request with `finish` carries no frame")
    _check_block_hashes(request.finish.block_hashes, opening.max_length)
    return tuple(request.finish.block_hashes)


def encode_finish(block_hashes: Sequence[bytes]) -> bytes:
    return serialize(pb2.StreamRequest(finish=pb2.Finish(block_hashes=block_hashes)))


def encode_opened(reached: int) -> bytes:
    return serialize(pb2.StreamReply(opened=pb2.Opened(reached=reached)))


def decode_opened(data: bytes, max_length: int) -> int:
    """Return the number of rows that the session begins with, or raise the error sent in its place.

    Raises:
        InvalidReply: the data is neither, or has more rows than the session may have.
    """
    with _blaming_the_server():
        message = parse(pb2.StreamReply(), data, _REPLY_ROWS)
    if message.HasField("error"):
        raise read_error(message.error)
    if not message.HasField("opened"):
        raise InvalidReply("the server's reply to an open with block hashes does not say where the session begins")
    reached = message.opened.reached
    if not 0 <= reached <= max_length:
        raise InvalidReply(f"the server says that a session of at most {max_length} rows begins with {reached}")
    return reached


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """A frame whose rows are not decoded yet. Their sizes are consistent."""

    header: FrameHeader
    rows: EncodedTensor | None

    @property
    def n_bytes(self) -> int:
        """The size of its rows, encoded or decoded, whichever is larger."""
        return 0 if self.rows is None else max(len(self.rows.data), self.rows.decoded_bytes)

    @property
    def is_expensive(self) -> bool:
        """Whether decoding should happen off the event loop."""
        rows = self.rows
        return rows is not None and codec_named(rows.codec).is_expensive_to_decode(rows.decoded_bytes)

    def decode(self) -> Frame:
        """Raises InvalidTensor: the data turns out not to be its codec's."""
        return Frame(self.header.position, None if self.rows is None else unpack(self.rows))


def read_frame(request: pb2.StreamRequest) -> EncodedFrame:
    """Raises InvalidRequest, InvalidTensor, UnknownCodec: the request has no frame, or an invalid one."""
    if not request.HasField("frame"):
        raise InvalidRequest("a request after the open must carry a frame")
    return _read_frame(request.frame)


def encode_reply(reply: Reply, codec: TensorCodec = PLAIN) -> bytes:
    message = pb2.StreamReply()
    message.frame.position = reply.frame.position
    message.timing.queue_seconds = reply.queue_seconds
    message.timing.compute_seconds = reply.compute_seconds
    if reply.frame.rows is None:
        return serialize(message)
    return serialize_with(message, _REPLY_ROWS, begin_tensor(message.frame.rows, reply.frame.rows, codec))


def encode_error(error: CommError) -> bytes:
    message = pb2.StreamReply()
    write_error(message.error, error)
    return serialize(message)


def decode_reply(data: bytes, asked: FrameHeader | None = None, codec: str | None = None) -> Reply:
    """Return the reply, or raise the error sent in its place.

    Args:
        asked: the header of the frame that this answers. The reply must have the same position and shape; the caller
            decides which dtypes are valid.
        codec: the codec that the rows may be encoded in; unencoded rows are accepted too.

    Raises:
        InvalidReply: the data is neither, or answers something else; nothing was decoded.
    """
    with _blaming_the_server():
        message = parse(pb2.StreamReply(), data, _REPLY_ROWS)
    if message.HasField("error"):
        raise read_error(message.error)
    with _blaming_the_server():
        if not message.HasField("frame"):
            raise InvalidRequest("neither a frame nor an error is in it")
        seconds = _read_timing(message.timing)
        encoded = _read_frame(message.frame)
        if asked is not None and (encoded.header.position, encoded.header.shape) != (asked.position, asked.shape):
            raise InvalidRequest(f"{encoded.header} does not answer {asked}")
        if encoded.rows is not None and codec is not None and encoded.rows.codec not in (PLAIN.name, codec):
            raise InvalidRequest(f"its rows use the codec {encoded.rows.codec!r}; the session requested {codec!r}")
        return Reply(encoded.decode(), *seconds)


def encode_info(info: ServiceInfo) -> bytes:
    return serialize(
        pb2.ServiceInfo(
            service_name=info.service_name,
            version=info.version,
            device=info.device,
            fingerprint=info.fingerprint,
            attributes=info.attributes,
            total_requests=info.total_requests,
            uptime_seconds=info.uptime_seconds,
            load=None if info.load is None else pb2.Load(**asdict(info.load)),
            instance=info.instance,
        )
    )


def decode_info(data: bytes) -> ServiceInfo:
    """What a server says of itself, `clipped`. Raises InvalidReply: it is no ServiceInfo, or exceeds a limit."""
    with _blaming_the_server():
        message = parse(pb2.ServiceInfo(), data)
        if len(message.attributes) > _MOST_ATTRIBUTES:
            raise InvalidRequest(
                f"it has {len(message.attributes)} attributes, and at most {_MOST_ATTRIBUTES} are read"
            )
        for name in ("service_name", "version", "device", "fingerprint"):
            _check_text(name, getattr(message, name), LONGEST_FINGERPRINT)
        for key, value in message.attributes.items():
            _check_text("attribute's name", key, LONGEST_FINGERPRINT)
            _check_text(f"attribute {clipped(key)!r}", value, _LONGEST_ATTRIBUTE)
        if message.total_requests < 0:
            raise InvalidRequest(f"its total_requests are {message.total_requests}")
        _check_seconds("uptime_seconds", message.uptime_seconds)
        _check_name("instance", message.instance, LONGEST_INSTANCE)
        load = _read_load(message.load) if message.HasField("load") else None
    # logs and messages name all of it
    names = clipped(message.service_name), clipped(message.version), clipped(message.device)
    facts = {clipped(key): clipped(value) for key, value in message.attributes.items()}
    told = *names, clipped(message.fingerprint, LONGEST_FINGERPRINT), facts
    return ServiceInfo(*told, message.total_requests, message.uptime_seconds, load, message.instance)


def _read_load(source: pb2.Load) -> ServiceLoad:
    load = ServiceLoad(source.running_sessions, source.waiting_sessions, source.total_rows, source.free_rows)
    if min(astuple(load)) < 0 or load.free_rows > load.total_rows:
        raise InvalidRequest(f"its load is impossible: {load}")
    return load


def _read_timing(source: pb2.Timing) -> tuple[float, float]:
    _check_seconds("queue_seconds", source.queue_seconds)
    _check_seconds("compute_seconds", source.compute_seconds)
    return source.queue_seconds, source.compute_seconds


def _read_frame(source: pb2.Frame) -> EncodedFrame:
    if source.position < 0:
        raise InvalidRequest(f"a frame's position is never negative, got {source.position}")
    if not source.HasField("rows"):
        return EncodedFrame(FrameHeader(source.position, None, None), None)
    encoded = encoded_tensor(source.rows)
    if len(encoded.shape) != 2:
        raise InvalidTensor(f"a frame's rows have shape [rows, width], got {list(encoded.shape)}")
    shape = encoded.shape[0], encoded.shape[1]
    return EncodedFrame(FrameHeader(source.position, shape, dtype_named(encoded.dtype)), encoded)


def _check_opening(opening: SessionOpening | pb2.Open) -> None:
    if opening.max_length < 1:
        raise InvalidRequest(f"a session's max_length is at least 1, got {opening.max_length}")
    _check_name("session_id", opening.session_id, LONGEST_SESSION_ID)
    _check_name("tenant", opening.tenant, LONGEST_OWNER_ID)
    _check_name("passed_on_for", opening.passed_on_for, LONGEST_OWNER_ID)
    _check_text("fingerprint", opening.fingerprint, LONGEST_FINGERPRINT)
    _check_block_hashes(opening.block_hashes, opening.max_length)
    if not 0 <= opening.opened_at < math.inf:
        raise InvalidRequest(f"a session cannot have been opened at {opening.opened_at}")


def _check_block_hashes(block_hashes: Sequence[bytes], max_length: int) -> None:
    """A block has at least one row, so `max_length` also bounds the number of blocks."""
    most = min(max_length, MAX_BLOCK_HASHES)
    if len(block_hashes) > most:
        raise InvalidRequest(
            f"a session of at most {max_length} rows has at most {most} block hashes, got {len(block_hashes)}"
        )
    for each in block_hashes:
        if not 0 < len(each) <= MAX_BLOCK_HASH_BYTES:
            raise InvalidRequest(f"a block hash has 1 to {MAX_BLOCK_HASH_BYTES} bytes, got one of {len(each)}")


def _check_text(name: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidRequest(f"a {name} has at most {most} characters, got {len(text)}")


def _check_name(name: str, text: str, most: int) -> None:
    """For names in logs."""
    _check_text(name, text, most)
    if not (text.isascii() and text.isprintable()):
        raise InvalidRequest(f"a {name} is of printable ASCII characters, because logs name it")


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 <= seconds < math.inf:
        raise InvalidRequest(f"its {name} are {seconds}")


@contextmanager
def _blaming_the_server() -> Iterator[None]:
    """Raise InvalidReply where a reply breaks the protocol, because that is not this end's fault."""
    try:
        yield
    except (InvalidRequest, UnknownCodec) as error:
        raise InvalidReply(f"the server's reply cannot be used: {error}") from None
