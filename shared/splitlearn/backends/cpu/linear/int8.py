"""A linear layer whose weight is stored as int8, one scale per output; what it multiplies stays as it is.

Shapes: R rows, K inputs, N outputs, ... any leading dimensions.
"""

import torch
from torch import nn
from torch.nn import functional

from splitlearn.backends.cpu.huge_pages import Span
from splitlearn.torch_private import int8_linear

_GREATEST = 127
_MOST_ROWS_OF_THE_INT8_KERNEL = 8
"""The int8 kernel's time grows with each row; from here on widening the weight costs less."""
_NUMBERS_AT_ONCE = 2**22
"""How much of a weight is widened at a time: small enough for the cache, and few turns."""
_KERNEL_WIDTH = 16


class Int8Linear(nn.Module):
    """Computes what `nn.Linear` does with weights rounded to `scale_N * [-127, 127]`.

    Each weight is off by half a scale at most. A scale is a number of the rows' dtype, and weights are rounded to it
    as it is, so that rounding the scale adds no error.
    """

    levels_NK: torch.Tensor  # noqa: N815 - a shape

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_NK.shape
        self.bias = None if bias_N is None else nn.Parameter(bias_N.detach().clone(), requires_grad=False)
        levels_NK, scale_N = quantize(weight_NK.detach())
        self.register_buffer("levels_NK", levels_NK)
        self.scale_N = nn.Parameter(scale_N, requires_grad=False)

    @staticmethod
    def supports(weight: torch.Tensor) -> bool:
        """Whether there is a kernel for such a weight [N, K]; it reads rows in steps of 16 numbers, and past the
        end of others."""
        known = weight.dtype in (torch.bfloat16, torch.float32, torch.float16)
        return weight.device.type == "cpu" and known and weight.shape[1] % _KERNEL_WIDTH == 0

    @property
    def weight(self) -> torch.Tensor:
        """The rounded weight [N, K] in the rows' dtype, made at each access: for the few models that read it."""
        return self.levels_NK.to(self.scale_N.dtype) * self.scale_N[:, None]

    @property
    def span(self) -> Span:
        """Where the weight lies in memory."""
        return Span(self.levels_NK.data_ptr(), self.levels_NK.nbytes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """[..., K] to [..., N]."""
        # the kernel takes rows for neighbours in memory, whatever their strides say
        rows_RK = input.reshape(-1, self.in_features).contiguous()
        if rows_RK.shape[0] <= _MOST_ROWS_OF_THE_INT8_KERNEL:
            output_RN = int8_linear(rows_RK, self.levels_NK, self.scale_N)
        else:
            output_RN = self._widened(rows_RK)
        if self.bias is not None:
            output_RN = output_RN + self.bias
        return output_RN.view(*input.shape[:-1], self.out_features)

    def _widened(self, rows_RK: torch.Tensor) -> torch.Tensor:
        n_outputs = max(1, _NUMBERS_AT_ONCE // self.in_features)
        pieces = [functional.linear(rows_RK, some.to(rows_RK.dtype)) for some in torch.split(self.levels_NK, n_outputs)]
        return torch.cat(pieces, dim=-1).mul_(self.scale_N)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize(weight_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels [N, K] in int8 and scales [N] in the weight's dtype; a piece at a time, as the head is large."""
    levels_NK = torch.empty(weight_NK.shape, dtype=torch.int8)
    scale_N = torch.empty(weight_NK.shape[0], dtype=weight_NK.dtype)
    n_outputs = max(1, _NUMBERS_AT_ONCE // weight_NK.shape[1])
    for first in range(0, weight_NK.shape[0], n_outputs):
        some = slice(first, first + n_outputs)
        piece = weight_NK[some].float()
        scale = (piece.abs().amax(dim=1) / _GREATEST).to(weight_NK.dtype)
        # outputs without any weight, or with so small ones that their scale is nothing
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        levels_NK[some] = (piece / scale.float()[:, None]).round_().clamp_(-_GREATEST, _GREATEST).to(torch.int8)
        scale_N[some] = scale
    return levels_NK, scale_N
