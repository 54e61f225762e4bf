"""A bf16 linear layer by kernels of our own (kernels/linear.c): each weight is read once, at the speed of memory.

Shapes: R rows, K inputs, N outputs, P panels of 16 outputs, ... any leading dimensions.
"""

import torch
from torch import nn
from torch.nn import functional

from splitlearn.kernels import kernels
from splitlearn.linear.int8 import quantize
from splitlearn.linear.pages import Span

_PANEL = 16
_WAYS = 8
_CACHE_PERIOD = 4096
_PAD = 32


class NativeLinear(nn.Module):
    """Computes what `nn.Linear` does with a bf16 weight, with its own copy of it and no other.

    A row's result is the same to the bit whatever other rows come with it.
    """

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
        super().__init__()
        self._hold(weight_NK.detach(), None, bias_N)

    def _hold(self, numbers_NK: torch.Tensor, scale_N: torch.Tensor | None, bias_N: torch.Tensor | None) -> None:
        library = kernels()
        if library is None:
            raise RuntimeError("the native kernels do not run here: ask supports() first")
        self._multiply = library.linear
        self.out_features, self.in_features = numbers_NK.shape
        self.bias = None if bias_N is None else nn.Parameter(bias_N.detach().clone(), requires_grad=False)
        self.scale_N = None if scale_N is None else nn.Parameter(scale_N, requires_grad=False)
        # modules are asked for their dtype and device through their parameters, and some models hold no others
        self.empty = nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False)
        # in an order that state dicts and casts must not touch: neither parameter nor buffer
        self._packed = _in_panels(numbers_NK)

    @staticmethod
    def supports(weight: torch.Tensor) -> bool:
        """Whether the kernels multiply by such a weight [N, K], on this machine."""
        fits = weight.device.type == "cpu" and weight.dtype is torch.bfloat16 and weight.shape[1] % 2 == 0
        return fits and kernels() is not None

    @property
    def weight(self) -> torch.Tensor:
        """The weight [N, K] in its usual order, unpacked at each access: for the few models that read it."""
        numbers_NK = self._packed.permute(0, 2, 1, 3).reshape(-1, self.in_features)[: self.out_features]
        return numbers_NK if self.scale_N is None else numbers_NK.to(self.scale_N.dtype) * self.scale_N[:, None]

    @property
    def span(self) -> Span:
        """Where the packed weight lies in memory."""
        return Span(self._packed.data_ptr(), self._packed.nbytes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """[..., K] to [..., N]."""
        if input.dtype is not torch.bfloat16 or input.shape[-1] != self.in_features:
            raise RuntimeError(f"expected bf16 [..., {self.in_features}], found {input.dtype} {list(input.shape)}")
        rows_RK = _apart(input.reshape(-1, self.in_features))
        output = input.new_empty((*input.shape[:-1], self.out_features))
        self._multiply(
            rows_RK.data_ptr(),
            self._packed.data_ptr(),
            None if self.scale_N is None else self.scale_N.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            output.data_ptr(),
            rows_RK.shape[0],
            rows_RK.stride(0),
            self.in_features,
            self.out_features,
            torch.get_num_threads(),
        )
        return output

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class NativeInt8Linear(NativeLinear):
    """The same with a weight rounded to 8 bits, as `Int8Linear` rounds it; rows stay bf16 and sums fp32."""

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
        nn.Module.__init__(self)
        levels_NK, scale_N = quantize(weight_NK.detach())
        self._hold(levels_NK, scale_N, bias_N)


def _in_panels(numbers_NK: torch.Tensor) -> torch.Tensor:
    """[N, K] as [P, K / 2, 16, 2]: what the kernel reads one after the other. Missing outputs are zeros."""
    n_outputs, n_inputs = numbers_NK.shape
    whole_NK = functional.pad(numbers_NK, (0, 0, 0, -n_outputs % _PANEL)) if n_outputs % _PANEL else numbers_NK
    return whole_NK.view(-1, _PANEL, n_inputs // 2, 2).permute(0, 2, 1, 3).contiguous()


def _apart(rows_RK: torch.Tensor) -> torch.Tensor:
    """The rows with their numbers side by side. Rows that begin a multiple of 4 KB apart all fall into the same eight
    places of a first-level cache, so that a block of more than eight of them would never stay there."""
    if rows_RK.stride(1) != 1:
        rows_RK = rows_RK.contiguous()
    n_rows, n_inputs = rows_RK.shape
    if n_rows <= _WAYS or rows_RK.stride(0) * rows_RK.itemsize % _CACHE_PERIOD:
        return rows_RK
    return rows_RK.new_empty(n_rows, n_inputs + _PAD)[:, :n_inputs].copy_(rows_RK)
