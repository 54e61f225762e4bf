"""Lossy codecs. Each states its error bound; `pack` leaves a tensor unencoded if the codec cannot keep it.

Shapes: R rows, D width of a row, N blocks in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

import torch
from torch import Tensor

from splitlearn_comm.core.codec import TensorCodec
from splitlearn_comm.core.elements import DTYPE_NAMES, byte_count, bytes_of, tensor_of
from splitlearn_comm.errors import InvalidTensor

BLOCK: Final = 64
_LARGEST_INT8: Final = 127
_SCALE_BYTES: Final = 4


class _HalfCodec(TensorCodec):
    dtype: ClassVar[torch.dtype]

    def is_worth_compressing(self, elements: Tensor) -> bool:
        return elements.dtype in (torch.float32, torch.float64)

    def compress(self, elements: Tensor) -> bytes | memoryview | None:
        # Also False for NaN, which amax propagates.
        holds = elements.numel() == 0 or elements.abs().amax().item() <= torch.finfo(self.dtype).max
        return bytes_of(elements.to(self.dtype)) if holds else None

    def check(self, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise InvalidTensor(f"the codec {self.name!r} is for FLOAT32 and FLOAT64, not for {DTYPE_NAMES[dtype]}")
        super().check(size, self.dtype, shape)

    def decompress(self, data: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        self.check(len(data), dtype, shape)
        return tensor_of(data, self.dtype, shape).to(dtype)


class BFloat16Codec(_HalfCodec):
    """float32 and float64 as bfloat16: an error of at most 2**-8 of the value, over float32's range."""

    name = "bf16"
    dtype = torch.bfloat16


class Float16Codec(_HalfCodec):
    """float32 and float64 as float16: an error of at most 2**-11 of the value or 2**-25, whichever is larger.
    Values beyond 65504 cannot be held."""

    name = "fp16"
    dtype = torch.float16


class Int8Codec(TensorCodec):
    """Floats as int8 with a float32 scale for every 64 values of a row: 1.0625 bytes per value.

    The error is at most 1/254 of the largest absolute value in the block, plus the rounding to float32 and to the
    tensor's own dtype. Blocks keep an outlier from spoiling the rest of its row.
    """

    name = "int8"

    def is_worth_compressing(self, elements: Tensor) -> bool:
        return elements.is_floating_point() and elements.dtype.itemsize > 1

    def compress(self, elements: Tensor) -> bytes | None:
        if not elements.numel():
            return b""
        rows_RD = elements.reshape(-1, elements.shape[-1] if elements.dim() else 1).to(torch.float32)
        scales_RN = torch.cat([blocks.abs().amax(dim=-1) for blocks in _blocks(rows_RD)], dim=1) / _LARGEST_INT8
        if not bool(scales_RN.isfinite().all()):
            return None
        # A block of zeros has the scale 0, and so may a block whose values are too small for float32 to divide by 127.
        steps_RN = scales_RN.masked_fill(scales_RN == 0, 1.0)
        values_RD = torch.empty(rows_RD.shape, dtype=torch.int8)
        for blocks, values, steps in _with_scales(rows_RD, values_RD, steps_RN):
            values.copy_((blocks / steps).round_().clamp_(-_LARGEST_INT8, _LARGEST_INT8))
        return b"".join((bytes_of(scales_RN), bytes_of(values_RD)))

    def check(self, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        if not dtype.is_floating_point or dtype.itemsize == 1:
            raise InvalidTensor(f"the codec 'int8' is for floats of 16 bits and more, not for {DTYPE_NAMES[dtype]}")
        count = byte_count(torch.int8, shape)
        expected = count + _scale_count(count, shape) * _SCALE_BYTES
        if size != expected:
            raise InvalidTensor(f"int8 blocks of shape {list(shape)} take {expected} bytes, got {size}")

    def decompress(self, data: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        self.check(len(data), dtype, shape)
        count = byte_count(torch.int8, shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        width = shape[-1] if shape else 1
        scale_bytes, whole = _scale_count(count, shape) * _SCALE_BYTES, memoryview(data)
        scales_RN = tensor_of(whole[:scale_bytes], torch.float32, (count // width, _block_count(width)))
        rows_RD = tensor_of(whole[scale_bytes:], torch.int8, (count // width, width)).to(torch.float32)
        for blocks, _, scales in _with_scales(rows_RD, rows_RD, scales_RN):
            blocks.mul_(scales)
        return rows_RD.to(dtype).reshape(shape)


def _blocks(rows_RD: Tensor) -> list[Tensor]:
    """Views of the whole blocks [R, N, BLOCK], and of the shorter block that may end a row [R, 1, rest].

    Never padded: in rows shorter than a block, the padding would take most of the memory.
    """
    whole = rows_RD.shape[1] // BLOCK * BLOCK
    views = []
    if whole:
        views.append(rows_RD[:, :whole].view(rows_RD.shape[0], whole // BLOCK, BLOCK))
    if whole < rows_RD.shape[1]:
        views.append(rows_RD[:, None, whole:])
    return views


def _with_scales(rows_RD: Tensor, others_RD: Tensor, scales_RN: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The blocks of both tensors, with their scales [R, N, 1]."""
    start = 0
    for blocks, others in zip(_blocks(rows_RD), _blocks(others_RD), strict=True):
        yield blocks, others, scales_RN[:, start : start + blocks.shape[1], None]
        start += blocks.shape[1]


def _scale_count(count: int, shape: tuple[int, ...]) -> int:
    """The number of scales for `count` elements in this shape; an empty tensor has none."""
    width = shape[-1] if shape else 1
    return count // width * _block_count(width) if count else 0


def _block_count(width: int) -> int:
    return -(-width // BLOCK)
