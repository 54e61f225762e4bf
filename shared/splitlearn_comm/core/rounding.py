"""Codecs that round. Each says how far; what it cannot hold that well, `pack` sends as it is.

Shapes: R rows, D width of a row, N blocks of a row.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor

from splitlearn_comm.core.codec import TensorCodec
from splitlearn_comm.core.elements import byte_count, bytes_of, tensor_of
from splitlearn_comm.errors import InvalidTensor

BLOCK: Final = 64
_LARGEST_INT8: Final = 127
_SCALE_BYTES: Final = 4


class _HalfCodec(TensorCodec):
    dtype: ClassVar[torch.dtype]

    def shrinks(self, elements: Tensor) -> bool:
        return elements.dtype in (torch.float32, torch.float64)

    def shrink(self, elements: Tensor) -> bytes | memoryview | None:
        # Not true of NaN either, which amax hands on.
        holds = elements.numel() == 0 or elements.abs().amax().item() <= torch.finfo(self.dtype).max
        return bytes_of(elements.to(self.dtype)) if holds else None

    def grow(self, data: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
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

    The error is at most 1/254 of the largest value (without its sign) in the block, plus the rounding to float32
    and to the tensor's own dtype. Blocks keep an outlier from spoiling the rest of its row.
    """

    name = "int8"

    def shrinks(self, elements: Tensor) -> bool:
        return elements.is_floating_point() and elements.dtype.itemsize > 1

    def shrink(self, elements: Tensor) -> bytes | None:
        rows_RD = _as_rows(elements).to(torch.float32)
        blocks_RNB = _blocks(rows_RD)
        scales_RN = blocks_RNB.abs().amax(dim=-1) / _LARGEST_INT8
        if not bool(scales_RN.isfinite().all()):
            return None
        # A block of zeros has the scale 0; so may one of values too small for float32 to divide by 127.
        steps_RN1 = scales_RN.masked_fill(scales_RN == 0, 1.0).unsqueeze(-1)
        values_RNB = (blocks_RNB / steps_RN1).round_().clamp_(-_LARGEST_INT8, _LARGEST_INT8).to(torch.int8)
        values_RD = values_RNB.flatten(start_dim=1)[:, : rows_RD.shape[1]].contiguous()
        return b"".join((bytes_of(scales_RN), bytes_of(values_RD)))

    def grow(self, data: bytes | memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        count = byte_count(torch.int8, shape)
        width = shape[-1] if shape else 1
        row_count = count // width if count else 0
        scale_bytes = row_count * _block_count(width) * _SCALE_BYTES
        if len(data) != scale_bytes + count:
            raise InvalidTensor(f"int8 blocks of shape {list(shape)} take {scale_bytes + count} bytes, got {len(data)}")
        whole = memoryview(data)
        scales_RN = tensor_of(whole[:scale_bytes], torch.float32, (row_count, _block_count(width)))
        values_RD = tensor_of(whole[scale_bytes:], torch.int8, (row_count, width))
        scaled_RNB = _blocks(values_RD.to(torch.float32)).mul_(scales_RN.unsqueeze(-1))
        return scaled_RNB.flatten(start_dim=1)[:, :width].to(dtype).contiguous().reshape(shape)


def _as_rows(elements: Tensor) -> Tensor:
    """[R, D], also of a scalar (one row of one) and of nothing (no rows)."""
    width = elements.shape[-1] if elements.dim() else 1
    return elements.reshape(elements.numel() // width if width else 0, width)


def _blocks(rows_RD: Tensor) -> Tensor:
    """[R, N, BLOCK], zeros at the end of a row whose width is no multiple of a block; memory of its own."""
    missing = -rows_RD.shape[1] % BLOCK
    row_count, width = rows_RD.shape
    return torch.nn.functional.pad(rows_RD, (0, missing)).reshape(row_count, _block_count(width), BLOCK)


def _block_count(width: int) -> int:
    return -(-width // BLOCK)
