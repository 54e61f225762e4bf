"""Weights of 4 bits, in groups of inputs that share a scale and mostly a zero point.

A weight is `scale * (level - zero)` for a level from 0 to 15.

Shapes: N outputs, K inputs, G groups of inputs, R rows, ... any leading
dimensions.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from splitlearn.backends.cpu.huge_pages import Span

GROUP_SIZE = 32
"""Inputs that share a scale, where nothing says otherwise: as in GGUF's Q4_0. 4.5 bits for each weight."""
BLOCK = 32
"""Groups are whole blocks of so many inputs, which the kernel sums at once."""
SYMMETRIC_ZERO = 8
_GREATEST = 15
_NUMBERS_AT_ONCE = 2**22
_LEAST_IMPORTANCE = 1e-3
_STEPS_TO_THE_GREATEST = tuple(sign * steps for sign in (-1, 1) for steps in (6, 6.75, 7.5, 8, 8.5))
"""Scales that `search_int4` tries: the greatest number of a group is so many of them."""


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
        zero_NG = SYMMETRIC_ZERO if self.zero_NG is None else self._for_each_input(self.zero_NG)
        return (self.levels_NK.float() - zero_NG) * self._for_each_input(self.scale_NG)

    def _for_each_input(self, numbers_NG: torch.Tensor) -> torch.Tensor:
        return numbers_NG.float().repeat_interleave(self.group_size, 1)[:, : self.levels_NK.shape[1]]


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


def search_int4(weight_NK: torch.Tensor, importance_K: torch.Tensor, group_size: int = GROUP_SIZE) -> Int4Weight:
    """Levels and scales that change a layer's outputs least, where its inputs are as great as `importance_K` says.

    Of ten scales for each group, refitted to the levels that they lead to, it takes the one with the least weighted
    square of errors: about half of what `quantize_int4` leaves, for some fifty times its time.

    Args:
        importance_K: the mean square of each input over some rows; ones: every input counts alike.

    Source: the search of llama.cpp's quantization with an importance matrix is of the same kind.
    """
    # inputs that those rows lacked may come in others
    relative_K = importance_K / importance_K.mean().clamp_min(torch.finfo(torch.float32).tiny) + _LEAST_IMPORTANCE
    n_outputs = max(1, _NUMBERS_AT_ONCE // weight_NK.shape[1])
    pieces = [_search(some, relative_K, group_size) for some in torch.split(weight_NK, n_outputs)]
    levels_NK, scale_NG = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return Int4Weight(levels_NK, scale_NG, None, group_size)


def _search(weight_NK: torch.Tensor, importance_K: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    n_outputs, n_inputs = weight_NK.shape
    missing = (0, -n_inputs % group_size)
    grouped = functional.pad(weight_NK.float(), missing).view(n_outputs, -1, group_size)
    importance = functional.pad(importance_K.float(), missing).view(1, -1, group_size)
    greatest = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))
    best_error = torch.full_like(greatest, torch.inf)
    best_scale, best = torch.ones_like(greatest, dtype=torch.half), torch.zeros_like(grouped)
    for steps in _STEPS_TO_THE_GREATEST:
        signed = (grouped / _nonzero(greatest / steps)).round_().clamp_(-SYMMETRIC_ZERO, _GREATEST - SYMMETRIC_ZERO)
        fitted = (importance * grouped * signed).sum(2, True) / (importance * signed.square()).sum(2, True)
        scale = _nonzero(fitted.nan_to_num_().half())
        signed = (grouped / scale.float()).round_().clamp_(-SYMMETRIC_ZERO, _GREATEST - SYMMETRIC_ZERO)
        error = (importance * (grouped - scale.float() * signed).square()).sum(2, True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_scale, best = torch.where(is_better, scale, best_scale), torch.where(is_better, signed, best)
    levels = (best + SYMMETRIC_ZERO).to(torch.uint8)
    return levels.view(n_outputs, -1)[:, :n_inputs].contiguous(), best_scale.squeeze(2)


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """Of groups without any weight, or with so small ones that their scale is nothing, the scale is one."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


class Int4Linear(nn.Module):
    """Computes what `nn.Linear` does with a weight rounded to 4 bits, which it widens at each step, a piece at a time.

    For rows and processors without a kernel: it saves memory, and is slower than the weight as it was.
    """

    packed_NK: torch.Tensor  # noqa: N815 - a shape

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_NK.shape
        self.bias = None if bias_N is None else nn.Parameter(bias_N.detach().clone(), requires_grad=False)
        weight = quantize_int4(weight_NK.detach())
        # modules are asked for their dtype and device through their parameters
        self.empty = nn.Parameter(weight_NK.new_empty(0), requires_grad=False)
        levels_NK = functional.pad(weight.levels_NK, (0, self.in_features % 2))
        self.register_buffer("packed_NK", levels_NK[:, 0::2] | levels_NK[:, 1::2] << 4)
        # in a dtype that casts must not touch: neither parameter nor buffer
        self._scale_NG, self._group_size = weight.scale_NG, weight.group_size

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
        return Span(self.packed_NK.data_ptr(), self.packed_NK.nbytes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """[..., K] to [..., N]."""
        n_outputs = max(1, _NUMBERS_AT_ONCE // self.in_features)
        some = (slice(first, first + n_outputs) for first in range(0, self.out_features, n_outputs))
        output = torch.cat([functional.linear(input, self._widened(outputs)) for outputs in some], dim=-1)
        return output if self.bias is None else output + self.bias

    def _widened(self, outputs: slice) -> torch.Tensor:
        packed_NK = self.packed_NK[outputs]
        levels_NK = torch.stack((packed_NK & 0xF, packed_NK >> 4), dim=2).flatten(1)[:, : self.in_features]
        weight = Int4Weight(levels_NK, self._scale_NG[outputs], None, self._group_size)
        return weight.dequantized().to(self.empty.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
