"""The only translation: frames, sessions' openings, computes and facts to protobuf bytes, errors to gRPC statuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from torch import Tensor

from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.core import PLAIN, SessionOpening, TensorCodec
from splitlearn_comm.errors import (
    ERRORS_BY_KIND,
    CommError,
    InvalidRequest,
    NotServed,
    RemoteFailure,
    TimedOut,
    Unreachable,
)
from splitlearn_comm.frames import Frame, Reply, ServiceInfo
from splitlearn_comm.messages import (
    begin_tensor,
    codec_name,
    codec_number,
    parse,
    read_tensor,
    serialize,
    serialize_with,
)

SERVICE: Final = pb2.DESCRIPTOR.services_by_name["ComputeService"].full_name
KIND_KEY: Final = "splitlearn-error"
RETRY_AFTER_KEY: Final = "splitlearn-retry-after"

# Code, details, trailing metadata.
Status = tuple[grpc.StatusCode, str | None, Iterable[tuple[str, str | bytes]]]

_FRAME_ROWS: Final = (pb2.StreamRequest.FRAME_FIELD_NUMBER, pb2.Frame.ROWS_FIELD_NUMBER)
_REPLY_ROWS: Final = (pb2.StreamReply.FRAME_FIELD_NUMBER, pb2.Frame.ROWS_FIELD_NUMBER)
_INPUT: Final = (pb2.ComputeRequest.TENSOR_FIELD_NUMBER,)
_OUTPUT: Final = (pb2.ComputeReply.TENSOR_FIELD_NUMBER,)
_CODE_NAMES: Final = {number: name.removeprefix("CODE_") for name, number in pb2.Code.items()}

# For statuses that no splitlearn server wrote: grpc itself, a proxy, another service.
_ERRORS_BY_CODE: Final[dict[str, type[CommError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNIMPLEMENTED": NotServed,
    # grpc's own word for a message above the limit; a splitlearn server that has no room names its error.
    "RESOURCE_EXHAUSTED": InvalidRequest,
    "UNAVAILABLE": Unreachable,
    "DEADLINE_EXCEEDED": TimedOut,
    # This end did not cancel, so the other one went away.
    "CANCELLED": Unreachable,
}


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What came of one compute: the tensor out, and the server's times in seconds."""

    tensor: Tensor
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


def encode_compute(tensor: Tensor, codec: TensorCodec) -> bytes:
    message = pb2.ComputeRequest(codec=codec_number(codec.name))
    return serialize_with(message, _INPUT, begin_tensor(message.tensor, tensor, codec))


def decode_compute(data: bytes) -> tuple[Tensor, str]:
    """The tensor in, and the codec that its reply is asked for in."""
    message = parse(pb2.ComputeRequest(), data)
    return read_tensor(message.tensor), codec_name(message.codec)


def encode_computed(computed: Computed, codec: TensorCodec) -> bytes:
    message = pb2.ComputeReply()
    message.timing.queue_seconds = computed.queue_seconds
    message.timing.compute_seconds = computed.compute_seconds
    return serialize_with(message, _OUTPUT, begin_tensor(message.tensor, computed.tensor, codec))


def encode_compute_error(error: CommError) -> bytes:
    message = pb2.ComputeReply()
    _write_error(message.error, error)
    return serialize(message)


def decode_computed(data: bytes) -> Computed:
    """The tensor out, or the error that was sent in its place, raised."""
    message = parse(pb2.ComputeReply(), data)
    if message.HasField("error"):
        raise _read_error(message.error)
    if not message.HasField("tensor"):
        raise InvalidRequest("the server's reply holds neither a tensor nor an error")
    return Computed(read_tensor(message.tensor), message.timing.queue_seconds, message.timing.compute_seconds)


def encode_request(opening: SessionOpening | None, frame: Frame | None, codec: TensorCodec = PLAIN) -> bytes:
    message = pb2.StreamRequest()
    if opening is not None:
        message.open.session_id = opening.session_id
        message.open.fingerprint = opening.fingerprint
        message.open.max_length = opening.max_length
        message.open.codec = codec_number(opening.codec)
        message.open.prefix.extend(opening.prefix)
    if frame is None:
        return serialize(message)
    message.frame.position = frame.position
    if frame.rows is None:
        return serialize(message)
    return serialize_with(message, _FRAME_ROWS, begin_tensor(message.frame.rows, frame.rows, codec))


def read_opening(request: pb2.StreamRequest) -> SessionOpening:
    if not request.HasField("open"):
        raise InvalidRequest("the first request of a stream must carry `open`")
    message = request.open
    if message.max_length < 1:
        raise InvalidRequest(f"a session's max_length is at least 1, got {message.max_length}")
    codec, prefix = codec_name(message.codec), tuple(message.prefix)
    return SessionOpening(message.session_id, message.fingerprint, message.max_length, codec, prefix)


def encode_keep(names: Sequence[bytes]) -> bytes:
    return serialize(pb2.StreamRequest(keep=pb2.Keep(names=names)))


def encode_opened(reached: int) -> bytes:
    return serialize(pb2.StreamReply(opened=pb2.Opened(reached=reached)))


def decode_opened(data: bytes) -> int:
    """The rows that the session begins with, or the error that was sent in place of them, raised."""
    message = parse(pb2.StreamReply(), data)
    if message.HasField("error"):
        raise _read_error(message.error)
    if not message.HasField("opened"):
        raise InvalidRequest("the server's reply to an open with a prefix does not say where the session begins")
    return message.opened.reached


def read_frame(request: pb2.StreamRequest) -> Frame:
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
    _write_error(message.error, error)
    return serialize(message)


def decode_reply(data: bytes) -> Reply:
    """The reply, or the error that was sent in its place, raised."""
    message = parse(pb2.StreamReply(), data)
    if message.HasField("error"):
        raise _read_error(message.error)
    if not message.HasField("frame"):
        raise InvalidRequest("the server's reply holds neither a frame nor an error")
    return Reply(_read_frame(message.frame), message.timing.queue_seconds, message.timing.compute_seconds)


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
        )
    )


def decode_info(data: bytes) -> ServiceInfo:
    message = parse(pb2.ServiceInfo(), data)
    return ServiceInfo(
        service_name=message.service_name,
        version=message.version,
        device=message.device,
        fingerprint=message.fingerprint,
        attributes=dict(message.attributes),
        total_requests=message.total_requests,
        uptime_seconds=message.uptime_seconds,
    )


def status_of(error: CommError) -> Status:
    """What a server aborts with. The trailing metadata names the class, which the code alone does not."""
    metadata = [(KIND_KEY, _kind(error))]
    if error.retry_after is not None:
        metadata.append((RETRY_AFTER_KEY, str(error.retry_after)))
    return grpc.StatusCode[error.code], str(error), tuple(metadata)


def error_of(status: Status, address: str) -> CommError:
    """The error that the server raised, or what grpc's own status means for the caller at this end."""
    code, details, metadata = status
    told = {key: str(value) for key, value in metadata}
    if KIND_KEY not in told:
        return _error("", code.name, _with_advice(code.name, details or "no details", address))
    error = _error(told[KIND_KEY], code.name, details or "")
    error.retry_after = float(told[RETRY_AFTER_KEY]) if RETRY_AFTER_KEY in told else None
    return error


def _with_advice(code: str, details: str, address: str) -> str:
    match code:
        case "UNAVAILABLE" | "CANCELLED":
            return f"no answer from {address}; check that a server runs there and can be reached ({details})"
        case "DEADLINE_EXCEEDED":
            return f"{address} did not answer in time; check the network and the server's load ({details})"
        case "UNIMPLEMENTED":
            return f"the server at {address} does not serve this; check address and versions ({details})"
        case _:
            return f"{address}: {details}"


def _error(kind: str, code: str, message: str) -> CommError:
    known = ERRORS_BY_KIND.get(kind) or _ERRORS_BY_CODE.get(code)
    # Only the fallback loses the code, so only it has to say it.
    return RemoteFailure(f"{code}: {message}") if known is None else known(message)


def _kind(error: CommError) -> str:
    """The nearest class that both ends know: a server may raise its own subclasses."""
    return next((known.__name__ for known in type(error).__mro__ if known.__name__ in ERRORS_BY_KIND), "")


def _write_error(target: pb2.Error, error: CommError) -> None:
    target.code = pb2.Code.Value(f"CODE_{error.code}")
    target.kind = _kind(error)
    target.message = str(error)
    target.retry_after_seconds = error.retry_after or 0.0


def _read_error(source: pb2.Error) -> CommError:
    error = _error(source.kind, _CODE_NAMES.get(source.code, "UNKNOWN"), source.message)
    error.retry_after = source.retry_after_seconds or None
    return error


def _read_frame(source: pb2.Frame) -> Frame:
    return Frame(source.position, read_tensor(source.rows) if source.HasField("rows") else None)
