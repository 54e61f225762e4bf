"""Codecs encode a tensor in fewer bytes, and decode it. This module has the exact ones, rounding.py the lossy ones."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from splitlearn_comm.core.elements import DTYPE_NAMES, DTYPES, byte_count, bytes_of, dense, known_dtypes, tensor_of
from splitlearn_comm.errors import InvalidTensor
from splitlearn_comm.options import MAX_MESSAGE_BYTES

# A slow codec takes a few milliseconds for this many bytes, which is too long for an event loop.
_LONG_WORK_BYTES: Final = 2**17
# Any codec takes as long for this many.
_LONG_COPY_BYTES: Final = 2**20
# Each deflated byte inflates to at most this many (zlib's technical details). Incompressible data grows a little.
_MOST_INFLATED: Final = 1032
_ZLIB_OVERHEAD: Final = 64


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """`dtype`, a key of DTYPES, and `shape` are the tensor's, before and after; `codec` made `data`."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview
    codec: str = "none"

    @property
    def decoded_bytes(self) -> int:
        """The size of the decoded tensor.

        Raises:
            InvalidTensor: an unknown dtype or an impossible shape.
        """
        return byte_count(dtype_named(self.dtype), self.shape)


class TensorCodec:
    """Encodes a tensor as bytes and decodes it, exact to the bit. Subclasses make fewer bytes.

    There are two forms. `pack` is for the wire: it keeps any dtype, and the result says how it was packed. `encode`
    and `decode` use float32 only and rely on the caller to pair them.
    """

    name: ClassVar[str] = "none"
    is_slow: ClassVar[bool] = False

    def pack(self, tensor: Tensor) -> EncodedTensor:
        """Pack a tensor of any shape, device and strides. If this codec would not make fewer bytes, or could not keep
        its error bound (infinities, NaN, values out of range), the elements stay unencoded.

        The data may be the tensor's own memory: use it before the tensor changes.

        Raises:
            InvalidTensor: the dtype is not in DTYPES, or the tensor is sparse.
        """
        elements = dense(tensor)
        shape, dtype = tuple(elements.shape), DTYPE_NAMES[elements.dtype]
        data = self.compress(elements) if self.is_worth_compressing(elements) else None
        if data is None or len(data) >= elements.nbytes:
            return EncodedTensor(dtype, shape, bytes_of(elements))
        return EncodedTensor(dtype, shape, data, self.name)

    def encode(self, tensor: Tensor) -> tuple[bytes, tuple[int, ...]]:
        """The elements as float32, in this codec's form, and the shape.

        Raises:
            InvalidTensor: as `pack`; or values that this codec cannot hold within its error bound.
        """
        if tensor.dtype not in DTYPE_NAMES:
            raise InvalidTensor(f"dtype {tensor.dtype} has no form in float32; use one of {known_dtypes()}")
        elements = dense(tensor.to(torch.float32))
        data = self.compress(elements)
        if data is None:
            raise InvalidTensor(f"the codec {self.name!r} holds finite values in its range only; send them without it")
        return bytes(data), tuple(elements.shape)

    def decode(self, data: bytes, shape: tuple[int, ...]) -> Tensor:
        """A writable float32 tensor of `shape`, owned by the caller, from data that `encode` made.

        Raises:
            InvalidTensor: the data is not this codec's, or not of this shape.
        """
        return self.decompress(data, torch.float32, tuple(shape))

    def is_worth_compressing(self, elements: Tensor) -> bool:
        """Whether `compress` is worth its time for a tensor of this dtype and size."""
        return False

    def compress(self, elements: Tensor) -> bytes | memoryview | None:
        """The data of a contiguous CPU tensor; None for values that this codec cannot hold."""
        return bytes_of(elements)

    def check(self, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """Check whether data of `size` bytes can be a tensor of this dtype and shape. Looks only at these values, and
        is cheap whatever they claim.

        Raises:
            InvalidTensor: it cannot be.
        """
        expected = byte_count(dtype, shape)
        if size != expected:
            raise InvalidTensor(f"{DTYPE_NAMES[dtype]} of shape {list(shape)} takes {expected} bytes, got {size}")

    def decompress(self, data: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The tensor of this dtype and shape. Raises InvalidTensor if the data is not its own."""
        self.check(len(data), dtype, shape)
        return tensor_of(data, dtype, shape)

    def is_expensive(self, tensor: Tensor | None) -> bool:
        """Whether packing should happen off the event loop."""
        return self.is_slow and tensor is not None and tensor.nbytes > _LONG_WORK_BYTES

    def is_expensive_to_decode(self, decoded_bytes: int) -> bool:
        """Whether a tensor of this decoded size should be decoded off the event loop."""
        return decoded_bytes > (_LONG_WORK_BYTES if self.is_slow else _LONG_COPY_BYTES)


class CompressedTensorCodec(TensorCodec):
    """zlib; exact. The first bytes of all elements go before the second bytes: signs and exponents of
    neighbors are alike, and deflate finds that only when they are adjacent.

    Args:
        compression_level: zlib's, 0 to 9. Above 1 it takes much longer and gains a few percent.
    """

    name = "zlib"
    is_slow = True

    def __init__(self, compression_level: int = 1) -> None:
        if not 0 <= compression_level <= 9:
            raise ValueError(f"compression_level is 0 to 9, got {compression_level}")
        self.compression_level = compression_level

    def is_worth_compressing(self, elements: Tensor) -> bool:
        # A tensor above the limit stays unencoded and is refused as too large, as the reader would refuse it.
        return 0 < elements.nbytes <= MAX_MESSAGE_BYTES

    def compress(self, elements: Tensor) -> bytes:
        planes = elements.reshape(-1).view(torch.uint8).reshape(-1, elements.dtype.itemsize).t().contiguous()
        return zlib.compress(bytes_of(planes), self.compression_level)

    def check(self, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        expected = byte_count(dtype, shape)
        if expected > MAX_MESSAGE_BYTES:
            raise InvalidTensor(f"a compressed tensor has at most {MAX_MESSAGE_BYTES} bytes, got {expected}")
        if not expected <= size * _MOST_INFLATED or size > expected + expected // 1000 + _ZLIB_OVERHEAD:
            raise InvalidTensor(f"{size} compressed bytes cannot hold the {expected} that shape {list(shape)} takes")

    def decompress(self, data: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        self.check(len(data), dtype, shape)
        planes = _inflated(data, byte_count(dtype, shape))
        if not planes:
            return torch.empty(shape, dtype=dtype)
        elements = torch.frombuffer(bytearray(planes), dtype=torch.uint8).reshape(dtype.itemsize, -1).t()
        return tensor_of(bytes_of(elements.contiguous()), dtype, shape)


def _inflated(data: bytes | memoryview, expected: int) -> bytes:
    """Inflate data, but never more than one byte beyond the expected size, whatever a hostile sender packed."""
    inflating = zlib.decompressobj()
    try:
        # A limit of 0 would mean none.
        found = inflating.decompress(data, expected + 1)
    except zlib.error as error:
        raise InvalidTensor(f"the data is not zlib's: {error}") from None
    if len(found) != expected or not inflating.eof or inflating.unused_data:
        raise InvalidTensor(f"the compressed data does not hold the {expected} bytes that its shape takes")
    return found


def dtype_named(name: str) -> torch.dtype:
    """Raises InvalidTensor for a name that is not in DTYPES."""
    dtype = DTYPES.get(name)
    if dtype is None:
        raise InvalidTensor(f"unknown dtype {name!r}; expected one of {known_dtypes()}")
    return dtype
