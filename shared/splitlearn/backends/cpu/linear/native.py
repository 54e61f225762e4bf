"""Linear layers for bf16 rows by kernels of our own: each weight is read once, at the speed of memory.

Shapes: R rows, K inputs, N outputs, G groups of inputs, P panels of 16 outputs, ... any leading dimensions.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from splitlearn.backends.cpu.huge_pages import Span
from splitlearn.backends.cpu.kernels import Kernels, kernels
from splitlearn.backends.cpu.kernels.structs import Descriptor, Linear, LinearCall
from splitlearn.backends.cpu.linear.int4 import BLOCK, PANEL, Int4Weight, as_int4, packed_shapes
from splitlearn.backends.cpu.linear.int8 import quantize


class _Native(nn.Module, ABC):
    """What all kinds have in common. A row's result is the same to the bit whatever other rows come with it."""

    def __init__(self, weight_NK: torch.Tensor | Int4Weight, bias_N: torch.Tensor | None = None) -> None:
        super().__init__()
        library = kernels()
        if library is None:
            raise RuntimeError("the native kernels do not run here: ask supports() first")
        self._library = library
        self.out_features, self.in_features = weight_NK.shape
        self.bias = None if bias_N is None else nn.Parameter(bias_N.detach().clone(), requires_grad=False)
        # modules are asked for their dtype and device through their parameters, and some models hold no others
        self.empty = nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False)
        # in an order that state dicts and casts must not touch: neither parameter nor buffer
        self._packed = self._pack(weight_NK)

    @staticmethod
    def supports(weight: torch.Tensor) -> bool:
        """Whether the kernels multiply by such a weight [N, K], on this machine."""
        fits = weight.device.type == "cpu" and weight.dtype is torch.bfloat16 and weight.shape[1] % 2 == 0
        return fits and kernels() is not None

    @property
    def span(self) -> Span:
        """Where the packed weight lies in memory."""
        return Span(self._packed.data_ptr(), self._packed.nbytes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """[..., K] to [..., N]."""
        if input.dtype is not torch.bfloat16 or input.shape[-1] != self.in_features:
            raise RuntimeError(f"expected bf16 [..., {self.in_features}], found {input.dtype} {list(input.shape)}")
        rows_RK = input.reshape(-1, self.in_features)
        output = input.new_empty((*input.shape[:-1], self.out_features))
        rows_RK = rows_RK if rows_RK.stride(1) == 1 else rows_RK.contiguous()
        n_rows, row_stride = rows_RK.shape[0], rows_RK.stride(0)
        addresses = rows_RK.data_ptr(), output.data_ptr()
        self._library.linear(LinearCall(*addresses, n_rows, row_stride, self._linear(), torch.get_num_threads()))
        return output

    @property
    def descriptor(self) -> Descriptor:
        """As the kernel of a whole layer reads it."""
        tensors = (*self._weights(), self.bias)
        return Descriptor(self._linear(), tuple(tensor.detach() for tensor in tensors if tensor is not None))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    @abstractmethod
    def _pack(self, weight_NK: Any) -> torch.Tensor:
        """The weight as the kernel reads it."""

    @abstractmethod
    def _weights(self) -> tuple[torch.Tensor, ...]:
        """All tensors that the kernel reads, but the bias."""

    @abstractmethod
    def _fields(self) -> dict[str, int | None]:
        """What tells the kernel about the weight: fields of `Linear`."""

    def _linear(self) -> Linear:
        bias = None if self.bias is None else self.bias.data_ptr()
        return Linear(**self._fields(), bias=bias, n_inputs=self.in_features, n_outputs=self.out_features)


class NativeLinear(_Native):
    """Computes what `nn.Linear` does with a bf16 weight, with its own copy of it and no other (kernels/linear.c)."""

    @property
    def weight(self) -> torch.Tensor:
        """The weight [N, K] in its usual order, unpacked at each access: for the few models that read it."""
        return _out_of_panels(self._packed, self.out_features, self.in_features)

    def of_panels(self, rows_RK: torch.Tensor, panels_P: torch.Tensor) -> torch.Tensor:
        """[R, K] to [R, 16 * P]: the outputs of these panels alone, with the same bits. There is no bias in them.

        Where the last panel is less than full, it is filled up with zeros.
        """
        some = self._packed.index_select(0, panels_P)
        linear = Linear(weight=some.data_ptr(), n_inputs=self.in_features, n_outputs=PANEL * len(panels_P))
        rows_RK = rows_RK.contiguous()
        output = rows_RK.new_empty(rows_RK.shape[0], PANEL * len(panels_P))
        addresses, sizes = (rows_RK.data_ptr(), output.data_ptr()), rows_RK.shape
        self._library.linear(LinearCall(*addresses, *sizes, linear, torch.get_num_threads()))
        return output

    def _pack(self, weight_NK: torch.Tensor) -> torch.Tensor:
        return _in_panels(weight_NK.detach(), 2)

    def _weights(self) -> tuple[torch.Tensor, ...]:
        return (self._packed,)

    def _fields(self) -> dict[str, int | None]:
        return {"weight": self._packed.data_ptr()}


class NativeInt8Linear(_Native):
    """The same with a weight rounded to 8 bits, as `Int8Linear` rounds it (kernels/linear_int8.c).

    Rows are taken as 16-bit whole numbers times a scale of their own; a number is off by 1 / 65534 of the greatest in
    its row at most.
    """

    MOST_INPUTS = Kernels.MOST_INT8_INPUTS
    """Sums of wider rows would not fit 32 bits."""

    @staticmethod
    def supports(weight: torch.Tensor) -> bool:
        """As for bf16, but for `MOST_INPUTS`."""
        return _Native.supports(weight) and weight.shape[1] <= NativeInt8Linear.MOST_INPUTS

    @property
    def weight(self) -> torch.Tensor:
        """The rounded weight [N, K], made at each access: for the few models that read it."""
        levels_NK = _out_of_panels(self._packed, self.out_features, self.in_features)
        return levels_NK.to(self.scale_N.dtype) * self.scale_N[:, None]

    def _pack(self, weight_NK: torch.Tensor) -> torch.Tensor:
        levels_NK, scale_N = quantize(weight_NK.detach())
        self.scale_N = nn.Parameter(scale_N, requires_grad=False)
        packed = _in_panels(levels_NK, 4)
        self._sums = packed.sum((1, 3), dtype=torch.int32)
        return packed

    def _weights(self) -> tuple[torch.Tensor, ...]:
        return self._packed, self.scale_N, self._sums

    def _fields(self) -> dict[str, int | None]:
        addresses = self._packed.data_ptr(), self.scale_N.data_ptr(), self._sums.data_ptr()
        return dict(zip(("weight", "scales", "sums"), addresses, strict=True))


class NativeInt4Linear(_Native):
    """The same with a weight rounded to 4 bits, as `quantize_int4` rounds it (kernels/linear_int4.c).

    Rows are taken as 8-bit whole numbers times a scale of their own for each 32; a number is off by 1 / 254 of the
    greatest among them at most.
    """

    @property
    def weight(self) -> torch.Tensor:
        """The rounded weight [N, K] in bf16, made at each access: for the few models that read it."""
        halves = torch.stack((self._packed & 0xF, self._packed >> 4), dim=2)
        levels_NK = halves.permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)[: self.out_features, : self.in_features]
        zero_NG = None if self._zeros is None else _groups_out_of_panels(self._zeros, self.out_features)
        scale_NG = _groups_out_of_panels(self._scales, self.out_features)
        return Int4Weight(levels_NK, scale_NG, zero_NG, self._group_size).dequantized().bfloat16()

    def _pack(self, weight_NK: torch.Tensor | Int4Weight) -> torch.Tensor:
        weight = weight_NK if isinstance(weight_NK, Int4Weight) else as_int4(weight_NK)
        if weight.group_size % BLOCK:
            raise ValueError(f"groups of {weight.group_size} inputs are no whole blocks of {BLOCK}")
        self._group_size = weight.group_size
        shape, groups_shape = packed_shapes(self.out_features, self.in_features, weight.group_size)
        self._scales = _groups_in_panels(weight.scale_NG, groups_shape)
        self._zeros = None if weight.zero_NG is None else _groups_in_panels(weight.zero_NG, groups_shape)
        n_panels, n_eights, n_outputs, n_inputs = shape
        missing = (0, n_eights * 8 - self.in_features, 0, n_panels * n_outputs - self.out_features)
        levels_NK = functional.pad(weight.levels_NK, missing)
        # eight inputs are two fours, the second of which lies in the high halves of the first one's bytes
        fours = levels_NK.view(n_panels, n_outputs, n_eights, 2, n_inputs).permute(3, 0, 2, 1, 4)
        return (fours[0] | fours[1] << 4).contiguous()

    def _weights(self) -> tuple[torch.Tensor, ...]:
        return (self._packed, self._scales, *(() if self._zeros is None else (self._zeros,)))

    def _fields(self) -> dict[str, int | None]:
        zeros = None if self._zeros is None else self._zeros.data_ptr()
        addresses = {"weight": self._packed.data_ptr(), "group_scales": self._scales.data_ptr(), "zeros": zeros}
        return {**addresses, "group_size": self._group_size}


Native = NativeLinear | NativeInt8Linear | NativeInt4Linear


def _in_panels(numbers_NK: torch.Tensor, side_by_side: int) -> torch.Tensor:
    """[N, K] as [P, K / s, 16, s] for s inputs side by side: what the kernel reads one after the other.

    Missing inputs and outputs are zeros.
    """
    n_outputs, n_inputs = numbers_NK.shape
    missing = (0, -n_inputs % side_by_side, 0, -n_outputs % PANEL)
    whole_NK = functional.pad(numbers_NK, missing) if any(missing) else numbers_NK
    return whole_NK.view(-1, PANEL, whole_NK.shape[1] // side_by_side, side_by_side).permute(0, 2, 1, 3).contiguous()


def _out_of_panels(packed: torch.Tensor, n_outputs: int, n_inputs: int) -> torch.Tensor:
    return packed.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:n_outputs, :n_inputs]


def _groups_in_panels(numbers_NG: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """[N, G] as [P, G, 16], the shape given; missing outputs are zeros."""
    n_panels, n_groups, n_outputs = shape
    whole_NG = functional.pad(numbers_NG, (0, 0, 0, n_panels * n_outputs - numbers_NG.shape[0]))
    return whole_NG.view(n_panels, n_outputs, n_groups).permute(0, 2, 1).contiguous()


def _groups_out_of_panels(packed: torch.Tensor, n_outputs: int) -> torch.Tensor:
    return packed.permute(0, 2, 1).flatten(0, 1)[:n_outputs]
