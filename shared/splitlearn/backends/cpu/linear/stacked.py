"""Packed weights of several linear layers of one shape, one after the other in memory.

Shapes: K inputs, N outputs.
"""

import ctypes
from collections.abc import Iterable

import torch

from splitlearn.backends.cpu.huge_pages import Span
from splitlearn.backends.cpu.kernels.structs import Linear
from splitlearn.backends.cpu.linear.native import Native


class StackedLinear:
    """As kernels that have many weights to choose from read them.

    Attributes:
        structure: of the first; what the others have follows it.
        count: how many there are.

    Args:
        kind: of the linear layers.
        linears: weight [N, K] and bias [N] of each, which are packed one at a time.
        count: at least one.
    """

    def __init__(
        self,
        kind: type[Native],
        linears: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
        count: int,
    ) -> None:
        self.count = count
        made = (kind(weight_NK, bias_N) for weight_NK, bias_N in linears)
        first = next(made)
        self.in_features, self.out_features = first.in_features, first.out_features
        self._stacks = [tensor.new_empty((count, *tensor.shape)) for tensor in first.descriptor.tensors]
        self.structure = self._moved(first)
        self._put(0, first)
        for index, linear in enumerate(made, start=1):
            self._put(index, linear)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What the structure points to."""
        return tuple(self._stacks)

    @property
    def span(self) -> Span:
        """Where the packed weights lie in memory."""
        return Span(self._stacks[0].data_ptr(), self._stacks[0].nbytes)

    def _put(self, index: int, linear: Native) -> None:
        for stack, tensor in zip(self._stacks, linear.descriptor.tensors, strict=True):
            stack[index] = tensor

    def _moved(self, linear: Native) -> Linear:
        """The layer's structure, which points to the stacks."""
        described = linear.descriptor
        addresses = zip(described.tensors, self._stacks, strict=True)
        moved = {tensor.data_ptr(): stack.data_ptr() for tensor, stack in addresses}
        structure = Linear.from_buffer_copy(described.structure)
        for name, kind, *_ in Linear._fields_:
            if issubclass(kind, ctypes.c_void_p):
                setattr(structure, name, moved.get(getattr(structure, name).value))
        return structure

    def __repr__(self) -> str:
        return f"{self.in_features} to {self.out_features}"
