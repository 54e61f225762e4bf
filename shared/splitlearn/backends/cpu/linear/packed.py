"""A linear layer whose weight lies in the order in which oneDNN's kernels read it.

Shapes: R rows, K inputs, N outputs, ... any leading dimensions.
"""

import torch
from torch import nn

from splitlearn.backends.cpu.huge_pages import Span
from splitlearn.torch_private import has_mkldnn_bf16, mkldnn_linear, mkldnn_memory, mkldnn_pack

_ROWS_OF_THE_FAST_KERNEL = 4


class PackedLinear(nn.Module):
    """Computes what `nn.Linear` does, with its own copy of the weight and no other.

    oneDNN's bf16 kernels for one and two rows read memory more slowly than the one for four, so that few rows
    are computed as four; the fp32 kernels have no such step.
    """

    def __init__(self, weight_NK: torch.Tensor, bias_N: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_NK.shape
        self.bias = None if bias_N is None else nn.Parameter(bias_N.detach().clone(), requires_grad=False)
        # modules are asked for their dtype and device through their parameters, and some models hold no others
        self.empty = nn.Parameter(weight_NK.detach().new_empty(0), requires_grad=False)
        # an opaque tensor, which state dicts and casts do not understand: neither parameter nor buffer
        self._packed = mkldnn_pack(weight_NK.detach().contiguous())
        self._pads = weight_NK.dtype is torch.bfloat16

    @staticmethod
    def supports(weight: torch.Tensor) -> bool:
        """Whether there is a kernel for such a weight on this machine."""
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        if weight.dtype is torch.bfloat16:
            return has_mkldnn_bf16()
        return weight.dtype is torch.float32

    @property
    def weight(self) -> torch.Tensor:
        """The weight [N, K] in its usual order, unpacked at each access: for the few models that read it."""
        return torch.as_tensor(self._packed.to_dense())

    @property
    def span(self) -> Span:
        """Where the packed weight lies in memory."""
        return Span(*mkldnn_memory(self._packed))

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """[..., K] to [..., N]."""
        n_rows = input.numel() // self.in_features
        if not self._pads or n_rows not in (1, 2):
            return self._multiply(input)
        rows_RK = input.reshape(n_rows, self.in_features)
        padded_RN = self._multiply(torch.cat((rows_RK,) * (_ROWS_OF_THE_FAST_KERNEL // n_rows)))
        return padded_RN[:n_rows].view(*input.shape[:-1], self.out_features)

    def _multiply(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return mkldnn_linear(input, self._packed, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
