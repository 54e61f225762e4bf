"""Tensors as bytes: row-major, little-endian, dtype kept."""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from splitlearn_comm.errors import InvalidTensor

if sys.byteorder != "little":
    raise ImportError("splitlearn_comm writes tensors as they lie in memory: it needs a little-endian machine")

DTYPES: Final[dict[str, torch.dtype]] = {
    "FLOAT64": torch.float64,
    "FLOAT32": torch.float32,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "FLOAT8_E4M3FN": torch.float8_e4m3fn,
    "FLOAT8_E5M2": torch.float8_e5m2,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT16": torch.int16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

# Far more than any model needs, and below what torch's own kernels take.
MAX_DIMENSIONS: Final = 16
_MAX_ELEMENTS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """`dtype` is a key of DTYPES; `data` holds the elements without padding."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class TensorCodec:
    """Tensor to bytes and back, exact to the bit."""

    def encode(self, tensor: Tensor) -> EncodedTensor:
        """Any shape, device and strides. One copy when `tensor` is contiguous on the CPU.

        Raises:
            InvalidTensor: the dtype is not in DTYPES, or the tensor is sparse.
        """
        name = _NAMES.get(tensor.dtype)
        if name is None:
            raise InvalidTensor(f"dtype {tensor.dtype} has no form on the wire; use one of {_known_dtypes()}")
        if tensor.layout is not torch.strided:
            raise InvalidTensor(f"only dense tensors go over the wire, got layout {tensor.layout}")
        # `dense` must live until its memory has been read.
        dense = tensor.detach().resolve_neg().cpu().contiguous()
        return EncodedTensor(name, tuple(dense.shape), ctypes.string_at(dense.data_ptr(), dense.nbytes))

    def decode(self, encoded: EncodedTensor) -> Tensor:
        """A writable CPU tensor that shares memory with nothing. One copy.

        Raises:
            InvalidTensor: unknown dtype, impossible shape, or a byte count that does not fit the shape.
        """
        dtype = DTYPES.get(encoded.dtype)
        if dtype is None:
            raise InvalidTensor(f"unknown dtype {encoded.dtype!r}; expected one of {_known_dtypes()}")
        shape = encoded.shape
        _check_shape(shape)
        expected = math.prod(shape) * dtype.itemsize
        if len(encoded.data) != expected:
            raise InvalidTensor(
                f"{encoded.dtype} of shape {list(shape)} takes {expected} bytes, got {len(encoded.data)}"
            )
        # Any byte may arrive, but a torch bool other than 0 and 1 misbehaves: bools take the way over integers.
        stored = torch.uint8 if dtype is torch.bool else dtype
        tensor = torch.empty(shape, dtype=stored)
        ctypes.memmove(tensor.data_ptr(), encoded.data, expected)
        return tensor.ne(0) if dtype is torch.bool else tensor


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidTensor(f"a tensor has at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    if any(size < 0 for size in shape):
        raise InvalidTensor(f"a dimension is never negative, got shape {list(shape)}")
    # torch multiplies the sizes of an empty tensor too, and overflows.
    if math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise InvalidTensor(f"shape {list(shape)} has more elements than can be counted")


def _known_dtypes() -> str:
    return ", ".join(DTYPES)
