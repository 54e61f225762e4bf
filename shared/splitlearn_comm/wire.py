"""The only translation: frames, sessions' openings and facts to protobuf bytes, errors to gRPC statuses.

Messages cross grpc as bytes and are serialized here, so that their size is known without asking protobuf
(which would serialize again) and a message that cannot be parsed is an error like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from torch import Tensor

from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.core import DTYPES, EncodedTensor, SessionOpening, TensorCodec
from splitlearn_comm.errors import (
    ERRORS_BY_KIND,
    CommError,
    InvalidRequest,
    InvalidTensor,
    NotServed,
    RemoteFailure,
    TimedOut,
    Unreachable,
)
from splitlearn_comm.frames import Frame, Reply, ServiceInfo
from splitlearn_comm.options import MAX_MESSAGE_BYTES

SERVICE: Final = pb2.DESCRIPTOR.services_by_name["ComputeService"].full_name
KIND_KEY: Final = "splitlearn-error"

# Code, details, trailing metadata.
Status = tuple[grpc.StatusCode, str | None, Iterable[tuple[str, str | bytes]]]
_M = TypeVar("_M", bound=Message)

_CODEC: Final = TensorCodec()
_DTYPE_NUMBERS: Final = {name: pb2.DType.Value(f"DTYPE_{name}") for name in DTYPES}
_DTYPE_NAMES: Final = {number: name for name, number in _DTYPE_NUMBERS.items()}
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


def parse(message: _M, data: bytes) -> _M:
    """Fill `message` from `data`; InvalidRequest when these are not its bytes."""
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise InvalidRequest(
            f"{len(data)} bytes that are no {message.DESCRIPTOR.full_name}; both ends must speak splitlearn.comm.v1"
        ) from None
    return message


def serialize(message: Message) -> bytes:
    """The message's bytes; InvalidTensor when the other end would refuse their number."""
    data = message.SerializeToString()
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidTensor(
            f"a message of {len(data)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}; send the rows in several frames"
        )
    return data


def write_tensor(target: pb2.Tensor, tensor: Tensor) -> None:
    # In place: a submessage that is built apart is copied once more when it is put in.
    encoded = _CODEC.encode(tensor)
    target.dtype = _DTYPE_NUMBERS[encoded.dtype]
    target.shape.extend(encoded.shape)
    target.data = encoded.data


def read_tensor(source: pb2.Tensor) -> Tensor:
    dtype = _DTYPE_NAMES.get(source.dtype, f"number {source.dtype}")
    return _CODEC.decode(EncodedTensor(dtype, tuple(source.shape), source.data))


def encode_request(opening: SessionOpening | None, frame: Frame | None) -> bytes:
    message = pb2.StreamRequest()
    if opening is not None:
        message.open.session_id = opening.session_id
        message.open.fingerprint = opening.fingerprint
        message.open.max_length = opening.max_length
    if frame is not None:
        _write_frame(message.frame, frame)
    return serialize(message)


def read_opening(request: pb2.StreamRequest) -> SessionOpening:
    if not request.HasField("open"):
        raise InvalidRequest("the first request of a stream must carry `open`")
    message = request.open
    if message.max_length < 1:
        raise InvalidRequest(f"a session's max_length is at least 1, got {message.max_length}")
    return SessionOpening(message.session_id, message.fingerprint, message.max_length)


def read_frame(request: pb2.StreamRequest) -> Frame:
    if not request.HasField("frame"):
        raise InvalidRequest("a request after the open must carry a frame")
    return _read_frame(request.frame)


def encode_reply(reply: Reply) -> bytes:
    message = pb2.StreamReply()
    _write_frame(message.frame, reply.frame)
    message.timing.queue_seconds = reply.queue_seconds
    message.timing.compute_seconds = reply.compute_seconds
    return serialize(message)


def encode_error(error: CommError) -> bytes:
    message = pb2.StreamReply()
    message.error.code = pb2.Code.Value(f"CODE_{error.code}")
    message.error.kind = _kind(error)
    message.error.message = str(error)
    return serialize(message)


def decode_reply(data: bytes) -> Reply:
    """The reply, or the error that was sent in its place, raised."""
    message = parse(pb2.StreamReply(), data)
    if message.HasField("error"):
        error = message.error
        raise _error(error.kind, _CODE_NAMES.get(error.code, "UNKNOWN"), error.message)
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
    return grpc.StatusCode[error.code], str(error), ((KIND_KEY, _kind(error)),)


def error_of(status: Status, address: str) -> CommError:
    """The error that the server raised, or what grpc's own status means for the caller at this end."""
    code, details, metadata = status
    kind = next((str(value) for key, value in metadata if key == KIND_KEY), None)
    if kind is None:
        return _error("", code.name, _with_advice(code.name, details or "no details", address))
    return _error(kind, code.name, details or "")


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


def _write_frame(target: pb2.Frame, frame: Frame) -> None:
    target.position = frame.position
    if frame.rows is not None:
        write_tensor(target.rows, frame.rows)


def _read_frame(source: pb2.Frame) -> Frame:
    return Frame(source.position, read_tensor(source.rows) if source.HasField("rows") else None)
