"""Converts the elements of a tensor to bytes, row-major and little-endian, and back."""

from __future__ import annotations

import ctypes
import math
import sys
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
DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

# Far more than any model needs, and fewer than torch's own kernels accept.
MAX_DIMENSIONS: Final = 16
_MAX_ELEMENTS: Final = 2**63 - 1
# Up to this size, copying takes less time than making a view of the memory.
_QUICKLY_COPIED: Final = 2**16


def dense(tensor: Tensor) -> Tensor:
    """The same values, contiguous on the CPU; `tensor` itself if it already is.

    Raises:
        InvalidTensor: the dtype is not in DTYPES, or the tensor is sparse.
    """
    if tensor.dtype not in DTYPE_NAMES:
        raise InvalidTensor(f"dtype {tensor.dtype} has no form on the wire; use one of {known_dtypes()}")
    if tensor.layout is not torch.strided:
        raise InvalidTensor(f"only dense tensors go over the wire, got layout {tensor.layout}")
    # Three quick checks instead of four new tensors: this runs for every row that is decoded.
    if tensor.is_cpu and tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.detach().resolve_neg().cpu().contiguous()


def bytes_of(dense: Tensor) -> bytes | memoryview:
    """The bytes of a contiguous CPU tensor. A large one is not copied: its bytes are those at the time of reading."""
    size = dense.nbytes
    if size <= _QUICKLY_COPIED:
        return ctypes.string_at(dense.data_ptr(), size)
    return _memory_of(dense.detach())


def tensor_of(data: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A writable CPU tensor that shares memory with nothing. Makes one copy.

    Raises:
        InvalidTensor: the shape is impossible, or does not match the number of bytes.
    """
    expected = byte_count(dtype, shape)
    if len(data) != expected:
        raise InvalidTensor(f"{DTYPE_NAMES[dtype]} of shape {list(shape)} takes {expected} bytes, got {len(data)}")
    # Any byte may arrive, but a torch bool other than 0 and 1 misbehaves, so bools are converted from integers.
    stored = torch.uint8 if dtype is torch.bool else dtype
    tensor = torch.empty(shape, dtype=stored)
    if isinstance(data, bytes):
        ctypes.memmove(tensor.data_ptr(), data, expected)
    else:
        _memory_of(tensor)[:] = data
    return tensor.ne(0) if dtype is torch.bool else tensor


def byte_count(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Size in bytes of the elements of a tensor of this shape.

    Raises:
        InvalidTensor: the shape is impossible.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidTensor(f"a tensor has at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    if shape and min(shape) < 0:
        raise InvalidTensor(f"a dimension is never negative, got shape {list(shape)}")
    count = math.prod(shape)
    # torch also multiplies the sizes of an empty tensor, and overflows.
    if (count or math.prod(max(size, 1) for size in shape)) > _MAX_ELEMENTS:
        raise InvalidTensor(f"shape {list(shape)} has more elements than can be counted")
    return count * dtype.itemsize


def _memory_of(dense: Tensor) -> memoryview:
    return dense.reshape(-1).view(torch.uint8).numpy().data


def known_dtypes() -> str:
    return ", ".join(DTYPES)
