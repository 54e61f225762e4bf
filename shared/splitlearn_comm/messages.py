"""Protobuf messages as bytes, and the tensors in them.

Messages pass through grpc as bytes and are serialized here, so that their size is known without asking protobuf
(which would serialize again) and a message that cannot be parsed is an error like any other.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message
from torch import Tensor

from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.core import CODECS, DTYPES, MAX_DIMENSIONS, EncodedTensor, TensorCodec, check
from splitlearn_comm.errors import InvalidRequest, InvalidTensor, UnknownCodec
from splitlearn_comm.message_size import (
    MOST_BESIDE_DATA,
    MOST_FIELDS,
    NoMessageError,
    TooMuchBesideDataError,
    beside_data,
)
from splitlearn_comm.options import MAX_MESSAGE_BYTES

_M = TypeVar("_M", bound=Message)

_DTYPE_NUMBERS: Final = {name: pb2.DType.Value(f"DTYPE_{name}") for name in DTYPES}
_DTYPE_NAMES: Final = {number: name for name, number in _DTYPE_NUMBERS.items()}
_CODEC_NUMBERS: Final = {name: pb2.Codec.Value(f"CODEC_{name.upper()}") for name in CODECS}
_CODEC_NAMES: Final = {number: name for name, number in _CODEC_NUMBERS.items()}

_DATA: Final = pb2.Tensor.DATA_FIELD_NUMBER
_LENGTH_DELIMITED: Final = 2
# Protobuf takes a quarter of a millisecond to parse this many bytes of block hashes.
_QUICKLY_PARSED: Final = 2**14


def parse(message: _M, data: bytes, path: tuple[int, ...] = ()) -> _M:
    """Fill `message` from `data`. `path` (field numbers) leads to its tensor.

    Raises:
        InvalidRequest: the data is not such a message, or too much of it is outside the tensor; nothing was parsed.
        InvalidTensor: too much of the tensor is not its data.
    """
    try:
        beside_data(data, _to_data(path))
        message.ParseFromString(data)
    except (DecodeError, NoMessageError):
        raise InvalidRequest(
            f"{len(data)} bytes are not a {message.DESCRIPTOR.full_name}; both ends must speak splitlearn.comm.v1"
        ) from None
    except TooMuchBesideDataError as error:
        what, kind = ("tensor", InvalidTensor) if error.in_tensor else ("message", InvalidRequest)
        raise kind(
            f"a {what} has at most {MOST_FIELDS} fields, and {MOST_BESIDE_DATA} bytes beside its elements"
        ) from None
    return message


def takes_long_to_parse(data: bytes, path: tuple[int, ...]) -> bool:
    """Whether parsing takes more than a moment. A message that `parse` refuses for its size takes none."""
    try:
        return beside_data(data, _to_data(path)) > _QUICKLY_PARSED
    except (NoMessageError, TooMuchBesideDataError):
        return False


def serialize(message: Message) -> bytes:
    """The message's bytes. Raises InvalidTensor if there are more than the other end accepts."""
    return _within_limit(message.SerializeToString())


def serialize_with(message: Message, path: tuple[int, ...], tensor: EncodedTensor) -> bytes:
    """Like `serialize`, with the data of the tensor at `path` (field numbers), which `begin_tensor` started there.

    The data follows the message as a second occurrence of the same fields. Parsers merge the two (protobuf's
    encoding guide, "Last One Wins"), and the data is copied once instead of three times.
    """
    head, nested, size = b"", message.SerializeToString(), len(tensor.data)
    for number in (_DATA, *reversed(path)):
        head = _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size) + head
        size = len(head) + len(tensor.data)
    return _within_limit(b"".join((nested, head, tensor.data)))


def begin_tensor(target: pb2.Tensor, tensor: Tensor, codec: TensorCodec) -> EncodedTensor:
    """Write everything but the data of `tensor` to `target`; `serialize_with` appends the data."""
    packed = codec.pack(tensor)
    target.dtype = _DTYPE_NUMBERS[packed.dtype]
    target.shape.extend(packed.shape)
    target.codec = codec_number(packed.codec)
    return packed


def encoded_tensor(source: pb2.Tensor) -> EncodedTensor:
    """The tensor of a message, still encoded; its sizes are consistent.

    Raises:
        InvalidTensor, UnknownCodec: they are not, or this end does not know the dtype or the codec.
    """
    # before building a tuple of the dimensions
    if len(source.shape) > MAX_DIMENSIONS:
        raise InvalidTensor(f"a tensor has at most {MAX_DIMENSIONS} dimensions, got {len(source.shape)}")
    dtype = _DTYPE_NAMES.get(source.dtype, f"number {source.dtype}")
    encoded = EncodedTensor(dtype, tuple(source.shape), source.data, codec_name(source.codec))
    check(encoded)
    return encoded


def _to_data(path: tuple[int, ...]) -> tuple[int, ...]:
    return (*path, _DATA) if path else ()


def codec_number(name: str) -> pb2.Codec.ValueType:
    number = _CODEC_NUMBERS.get(name)
    if number is None:
        raise UnknownCodec(f"unknown codec {name!r}; expected one of {', '.join(CODECS)}")
    return number


def codec_name(number: pb2.Codec.ValueType) -> str:
    name = _CODEC_NAMES.get(number)
    if name is None:
        raise UnknownCodec(f"the other end uses codec number {number}; this end knows {', '.join(CODECS)}")
    return name


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidTensor(
            f"a message of {len(data)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}; send the rows in several frames"
        )
    return data


def _varint(number: int) -> bytes:
    """Seven bits per byte, lowest first, with the top bit set on all bytes but the last."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
