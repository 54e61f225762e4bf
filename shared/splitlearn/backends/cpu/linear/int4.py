"""Weights of 4 bits, in groups of inputs that share a scale and mostly a zero point.

A weight is `scale * (level - zero)` for a level from 0 to 15.

Shapes: N outputs, K inputs, H bytes of two inputs each, G groups of inputs, P panels of outputs, R rows, ... any
leading dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from splitlearn.backends.cpu.huge_pages import Span

GROUP_SIZE = 32
"""Inputs that share a scale, where nothing says otherwise: as in GGUF's Q4_0. 4.5 bits for each weight."""
BLOCK = 32
"""Groups are whole blocks of so many inputs, which the kernel sums at once."""
SYMMETRIC_ZERO = 8
PANEL = 16
"""Outputs that the kernel computes at once; missing ones are stored as zeros."""
_GREATEST = 15
_NUMBERS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Int4Weight:
    """A quantized weight [N, K].

    Attributes:
        levels_NK: uint8, from 0 to 15.
        scale_NG: fp16.
        zero_NG: fp16; None: all are 8.
        group_size: inputs of a group; the last may have fewer.
    """

    levels_NK: torch.Tensor  # noqa: N815 - a shape
    scale_NG: torch.Tensor  # noqa: N815 - a shape
    zero_NG: torch.Tensor | None  # noqa: N815 - a shape
    group_size: int

    @property
    def shape(self) -> torch.Size:
        """[N, K]."""
        return self.levels_NK.shape

    def dequantized(self) -> torch.Tensor:
        """The rounded weight [N, K] in fp32."""
        zero_NK = SYMMETRIC_ZERO if self.zero_NG is None else self.for_each_input(self.zero_NG)
        return (self.levels_NK.float() - zero_NK) * self.for_each_input(self.scale_NG)

    def of_outputs(self, outputs: slice) -> "Int4Weight":
        """A view of some outputs."""
        zero_NG = None if self.zero_NG is None else self.zero_NG[outputs]
        return Int4Weight(self.levels_NK[outputs], self.scale_NG[outputs], zero_NG, self.group_size)

    def for_each_input(self, numbers_NG: torch.Tensor) -> torch.Tensor:
        """What belongs to groups, for their inputs: [N, K] in fp32."""
        return numbers_NG.float().repeat_interleave(self.group_size, 1)[:, : self.levels_NK.shape[1]]


@dataclass(frozen=True)
class PackedInt4Weight:
    """A quantized weight [N, K] as files hold it, two levels in a byte. Groups divide the inputs.

    Attributes:
        levels_NH: uint8; of two inputs the first is in the low half.
        scale_NG: fp16.
        zero_NG: fp16; None: all are 8.
        min_NG: fp16, where there are no zeros, but a level of 0 stands for this and the others follow by scales.
    """

    levels_NH: torch.Tensor  # noqa: N815 - a shape
    scale_NG: torch.Tensor  # noqa: N815 - a shape
    zero_NG: torch.Tensor | None = None  # noqa: N815 - a shape
    min_NG: torch.Tensor | None = None  # noqa: N815 - a shape

    @property
    def shape(self) -> torch.Size:
        """[N, K]."""
        n_outputs, n_bytes = self.levels_NH.shape
        return torch.Size((n_outputs, n_bytes * 2))

    @property
    def group_size(self) -> int:
        """Inputs of a group."""
        return self.shape[1] // self.scale_NG.shape[1]

    @property
    def packed_bytes(self) -> int:
        """What it takes in memory once `pack` took it as it is."""
        n_outputs, n_inputs = self.shape
        has_zeros = self.zero_NG is not None or self.min_NG is not None
        return packed_bytes(n_outputs, n_inputs, self.group_size, has_zeros=has_zeros)

    def unpacked(self, outputs: slice = slice(None)) -> Int4Weight:
        """A copy of some outputs, which keeps no file mapped. Minima become zeros, rounded to fp16."""
        levels_NK, scale_NG = unpack_levels(self.levels_NH[outputs]), self.scale_NG[outputs].clone()
        zero_NG = None if self.zero_NG is None else self.zero_NG[outputs].clone()
        if self.min_NG is not None:
            zero_NG = zeros_of(scale_NG, self.min_NG[outputs])
        return Int4Weight(levels_NK, scale_NG, zero_NG, self.group_size)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [N, K], computed in fp32 and rounded once, some outputs at a time."""
        weight_NK = torch.empty(self.shape, dtype=dtype)
        n_outputs = max(1, _NUMBERS_AT_ONCE // weight_NK.shape[1])
        for first in range(0, weight_NK.shape[0], n_outputs):
            some = slice(first, first + n_outputs)
            weight_NK[some] = self._numbers(some)
        return weight_NK

    def _numbers(self, outputs: slice) -> torch.Tensor:
        weight = self.unpacked(outputs)
        if self.min_NG is None:
            return weight.dequantized()
        # in the order of the format's own arithmetic, so that the last bit is the same
        scaled_NK = weight.levels_NK.float() * weight.for_each_input(weight.scale_NG)
        return scaled_NK + weight.for_each_input(self.min_NG[outputs])


def packed_shapes(n_outputs: int, n_inputs: int, group_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As the kernel reads a weight: of the bytes of its levels, and of its scales, which zeros share.

    Returns:
        [P, B, 16, 4] for P panels of 16 outputs and B times eight inputs, two in a byte; and [P, G, 16].
    """
    n_panels, n_blocks = -(-n_outputs // PANEL), -(-n_inputs // BLOCK)
    return (n_panels, n_blocks * BLOCK // 8, PANEL, 4), (n_panels, -(-n_inputs // group_size), PANEL)


def packed_bytes(n_outputs: int, n_inputs: int, group_size: int = GROUP_SIZE, *, has_zeros: bool = False) -> int:
    """What such a weight takes in memory: levels, and two bytes for the scale of each group, and for its zero."""
    levels, groups = (math.prod(shape) for shape in packed_shapes(n_outputs, n_inputs, group_size))
    return levels + 2 * groups * (1 + has_zeros)


def zeros_of(scale_NG: torch.Tensor, min_NG: torch.Tensor) -> torch.Tensor:
    """The zero points, in fp16, of groups whose level 0 stands for a minimum. Off by 2^-11 of themselves at most."""
    return (-min_NG.float() / scale_NG.float()).half()


def pack_levels(levels_NK: torch.Tensor) -> torch.Tensor:
    """[N, K] as [N, H]; a missing last input is 0."""
    whole_NK = functional.pad(levels_NK, (0, levels_NK.shape[1] % 2))
    return whole_NK[:, 0::2] | whole_NK[:, 1::2] << 4


def unpack_levels(levels_NH: torch.Tensor) -> torch.Tensor:
    """[N, H] as [N, K]."""
    return torch.stack((levels_NH & 0xF, levels_NH >> 4), dim=2).flatten(1)


class Int4Parameter(nn.Parameter):
    """Stands for a quantized weight in a linear layer: its shape and dtype, without memory. `pack` takes what it is.

    Its own numbers are NaN, so that no layer computes with them unnoticed.
    """

    packed: PackedInt4Weight
    is_transposed: bool
    """Whether it is [K, N], as layers have it that store their inputs first."""

    @classmethod
    def of(cls, packed: PackedInt4Weight, dtype: torch.dtype, *, is_transposed: bool = False) -> Self:
        """The parameter of a weight whose layer computes in `dtype`."""
        shape = packed.shape[::-1] if is_transposed else packed.shape
        parameter = cls(torch.tensor(torch.nan, dtype=dtype).expand(shape), requires_grad=False)
        parameter.packed, parameter.is_transposed = packed, is_transposed
        return parameter

    def t(self) -> Self:
        """The same weight the other way round."""
        return self.of(self.packed, self.dtype, is_transposed=not self.is_transposed)

    def dequantized(self) -> nn.Parameter:
        """The weight's numbers in the parameter's dtype."""
        numbers_NK = self.packed.dequantized(self.dtype)
        return nn.Parameter(numbers_NK.t().contiguous() if self.is_transposed else numbers_NK, requires_grad=False)


def joined(weights_NK: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The outputs of several weights one after the other; None where some are quantized, and not all alike."""
    packed = [weight.packed for weight in weights_NK if isinstance(weight, Int4Parameter)]
    if not packed:
        return torch.cat([weight.detach() for weight in weights_NK])
    kinds = {(each.group_size, each.zero_NG is None, each.min_NG is None) for each in packed}
    if len(packed) < len(weights_NK) or len(kinds) > 1:
        return None
    levels_NH, scale_NG = torch.cat([each.levels_NH for each in packed]), torch.cat([each.scale_NG for each in packed])
    zeros = [each.zero_NG for each in packed if each.zero_NG is not None]
    minima = [each.min_NG for each in packed if each.min_NG is not None]
    zero_NG, min_NG = (torch.cat(some) if some else None for some in (zeros, minima))
    return Int4Parameter.of(PackedInt4Weight(levels_NH, scale_NG, zero_NG, min_NG), weights_NK[0].dtype)


def as_int4(weight_NK: torch.Tensor) -> Int4Weight:
    """What an `Int4Parameter` stands for, and any other weight rounded."""
    return weight_NK.packed.unpacked() if isinstance(weight_NK, Int4Parameter) else quantize_int4(weight_NK.detach())


def quantize_int4(weight_NK: torch.Tensor, group_size: int = GROUP_SIZE) -> Int4Weight:
    """Rounds to the nearest level, with one scale for each group and no zero points.

    The greatest number of a group is -8 times its scale, as in GGUF's Q4_0, so that no level is wasted. A piece at a
    time, as the head is large.
    """
    n_outputs = max(1, _NUMBERS_AT_ONCE // weight_NK.shape[1])
    pieces = [_quantize(some, group_size) for some in torch.split(weight_NK, n_outputs)]
    levels_NK, scale_NG = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return Int4Weight(levels_NK, scale_NG, None, group_size)


def _quantize(weight_NK: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    n_outputs, n_inputs = weight_NK.shape
    grouped = functional.pad(weight_NK.float(), (0, -n_inputs % group_size)).view(n_outputs, -1, group_size)
    greatest = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))
    scale = _nonzero((greatest / -SYMMETRIC_ZERO).half())
    levels = (grouped / scale.float()).round_().add_(SYMMETRIC_ZERO).clamp_(0, _GREATEST).to(torch.uint8)
    return levels.view(n_outputs, -1)[:, :n_inputs].contiguous(), scale.squeeze(2)


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """Of groups without any weight, or with so small ones that their scale is nothing, the scale is one."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


class Int4Linear(nn.Module):
    """Computes what `nn.Linear` does with a weight of 4 bits, which it widens at each step, a piece at a time.

    For rows and processors without a kernel: it saves memory, and is slower than the weight as it was.
    """

    packed_NH: torch.Tensor  # noqa: N815 - a shape

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_NK.shape
        self.bias = None if bias_N is None else nn.Parameter(bias_N.detach().clone(), requires_grad=False)
        weight = as_int4(weight_NK)
        # modules are asked for their dtype and device through their parameters
        self.empty = nn.Parameter(weight_NK.new_empty(0), requires_grad=False)
        self.register_buffer("packed_NH", pack_levels(weight.levels_NK))
        # in a dtype that casts must not touch: neither parameter nor buffer
        self._scale_NG, self._zero_NG, self._group_size = weight.scale_NG, weight.zero_NG, weight.group_size

    @staticmethod
    def supports(weight: torch.Tensor) -> bool:
        """Whether such a weight [N, K] can be rounded here."""
        return weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float32, torch.float16)

    @property
    def weight(self) -> torch.Tensor:
        """The rounded weight [N, K] in the rows' dtype, made at each access: for the few models that read it."""
        return self._widened(slice(None))

    @property
    def span(self) -> Span:
        """Where the weight lies in memory."""
        return Span(self.packed_NH.data_ptr(), self.packed_NH.nbytes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """[..., K] to [..., N]."""
        n_outputs = max(1, _NUMBERS_AT_ONCE // self.in_features)
        some = (slice(first, first + n_outputs) for first in range(0, self.out_features, n_outputs))
        output = torch.cat([functional.linear(input, self._widened(outputs)) for outputs in some], dim=-1)
        return output if self.bias is None else output + self.bias

    def _widened(self, outputs: slice) -> torch.Tensor:
        levels_NK = unpack_levels(self.packed_NH[outputs])[:, : self.in_features]
        zero_NG = None if self._zero_NG is None else self._zero_NG[outputs]
        weight = Int4Weight(levels_NK, self._scale_NG[outputs], zero_NG, self._group_size)
        return weight.dequantized().to(self.empty.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
