"""The types that tensors of GGUF files have: numbers, or blocks of codes that hold their own scales.

Each function makes float32 `[N, values]` of N blocks `[N, size]` in bytes.
Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c (dequantize_row_*).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class TensorType:
    """A type: `size` bytes hold `values` numbers, which are of a `dtype`, or which `dequantize` computes of bytes.

    Attributes:
        int4: of bytes, where numbers are levels of 4 bits (uint8) with a scale of their block and perhaps a minimum,
            float32 [N, 1].
    """

    name: str
    values: int
    size: int
    dtype: torch.dtype
    dequantize: Callable[[torch.Tensor], torch.Tensor] | None
    int4: "Callable[[torch.Tensor], Int4Blocks] | None" = None


class Int4Blocks(NamedTuple):
    """Without minima a level of 8 stands for 0."""

    levels: torch.Tensor
    scale: torch.Tensor
    minimum: torch.Tensor | None = None


def _half(blocks_NB: torch.Tensor, at: int) -> torch.Tensor:
    """The float16 at a byte of each block, as float32 `[N, 1]`."""
    return blocks_NB[:, at : at + 2].contiguous().view(torch.float16).to(torch.float32)


def _nibbles(bytes_NB: torch.Tensor) -> torch.Tensor:
    """First the lower halves of all bytes, then the upper ones."""
    return torch.cat([bytes_NB & 15, bytes_NB >> 4], 1)


def _bits(bytes_NB: torch.Tensor) -> torch.Tensor:
    """The bits of each byte as uint8, the lowest first."""
    return ((bytes_NB.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1)


def _q4_0(blocks_NB: torch.Tensor) -> torch.Tensor:
    levels, scale, _ = _q4_0_levels(blocks_NB)
    return scale * (levels.to(torch.float32) - 8)


def _q4_0_levels(blocks_NB: torch.Tensor) -> Int4Blocks:
    return Int4Blocks(_nibbles(blocks_NB[:, 2:]), _half(blocks_NB, 0))


def _q4_1(blocks_NB: torch.Tensor) -> torch.Tensor:
    return _half(blocks_NB, 0) * _nibbles(blocks_NB[:, 4:]) + _half(blocks_NB, 2)


def _q4_1_levels(blocks_NB: torch.Tensor) -> Int4Blocks:
    return Int4Blocks(_nibbles(blocks_NB[:, 4:]), _half(blocks_NB, 0), _half(blocks_NB, 2))


def _q5_0(blocks_NB: torch.Tensor) -> torch.Tensor:
    codes = _nibbles(blocks_NB[:, 6:]) | (_bits(blocks_NB[:, 2:6]) << 4)
    return _half(blocks_NB, 0) * (codes.to(torch.float32) - 16)


def _q5_1(blocks_NB: torch.Tensor) -> torch.Tensor:
    codes = _nibbles(blocks_NB[:, 8:]) | (_bits(blocks_NB[:, 4:8]) << 4)
    return _half(blocks_NB, 0) * codes + _half(blocks_NB, 2)


def _q8_0(blocks_NB: torch.Tensor) -> torch.Tensor:
    return _half(blocks_NB, 0) * blocks_NB[:, 2:].contiguous().view(torch.int8)


def _k_scales(blocks_NB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of Q4_K and Q5_K: scales and minima of 8 groups of 32 values, 6 bits each in 12 bytes; float32 `[N, 8, 1]`."""
    first, second, third = blocks_NB[:, 4:8], blocks_NB[:, 8:12], blocks_NB[:, 12:16]
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], 1)
    minima = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], 1)
    return (_half(blocks_NB, 0) * scales).unsqueeze(-1), (_half(blocks_NB, 2) * minima).unsqueeze(-1)


def _k_nibbles(bytes_NB: torch.Tensor) -> torch.Tensor:
    """Of 32 bytes after the other: their lower halves are a group of 32 values, their upper ones the next."""
    chunks = bytes_NB.reshape(len(bytes_NB), 4, 32)
    return torch.stack([chunks & 15, chunks >> 4], 2).reshape(len(bytes_NB), 8, 32)


def _q4_k(blocks_NB: torch.Tensor) -> torch.Tensor:
    scales, minima = _k_scales(blocks_NB)
    return (scales * _k_nibbles(blocks_NB[:, 16:]) - minima).flatten(1)


def _q5_k(blocks_NB: torch.Tensor) -> torch.Tensor:
    scales, minima = _k_scales(blocks_NB)
    # a bit of each byte belongs to each group
    highest = _bits(blocks_NB[:, 16:48]).reshape(-1, 32, 8).transpose(1, 2)
    return (scales * (_k_nibbles(blocks_NB[:, 48:]) | (highest << 4)) - minima).flatten(1)


def _q6_k(blocks_NB: torch.Tensor) -> torch.Tensor:
    lower = blocks_NB[:, :128].reshape(-1, 2, 2, 32)
    lower = torch.stack([lower & 15, lower >> 4], 2).reshape(-1, 2, 4, 32)
    upper = blocks_NB[:, 128:192].reshape(-1, 2, 1, 32) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8).reshape(4, 1)
    codes = (lower | ((upper & 3) << 4)).reshape(-1, 16, 16).to(torch.float32) - 32
    scales = _half(blocks_NB, 208) * blocks_NB[:, 192:208].contiguous().view(torch.int8)
    return (scales.unsqueeze(-1) * codes).flatten(1)


_TYPES = {
    0: TensorType("F32", 1, 4, torch.float32, None),
    1: TensorType("F16", 1, 2, torch.float16, None),
    30: TensorType("BF16", 1, 2, torch.bfloat16, None),
    2: TensorType("Q4_0", 32, 18, torch.uint8, _q4_0, _q4_0_levels),
    3: TensorType("Q4_1", 32, 20, torch.uint8, _q4_1, _q4_1_levels),
    6: TensorType("Q5_0", 32, 22, torch.uint8, _q5_0),
    7: TensorType("Q5_1", 32, 24, torch.uint8, _q5_1),
    8: TensorType("Q8_0", 32, 34, torch.uint8, _q8_0),
    12: TensorType("Q4_K", 256, 144, torch.uint8, _q4_k),
    13: TensorType("Q5_K", 256, 176, torch.uint8, _q5_k),
    14: TensorType("Q6_K", 256, 210, torch.uint8, _q6_k),
}

TYPE_NAMES = {
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
"""Types that are not read, by their numbers in files."""


def tensor_type(number: int) -> TensorType | None:
    """The type of a number in a file; None if it is not read."""
    return _TYPES.get(number)
