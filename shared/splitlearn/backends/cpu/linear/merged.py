"""Linear layers that take the same rows are computed as one: one call, and no layer too narrow to pay for it."""

from collections.abc import Sequence

import torch
from torch import nn

from splitlearn.backends.cpu.linear.native import Native
from splitlearn.backends.cpu.linear.packed import PackedLinear
from splitlearn.torch_private import change_count

Shared = Native | PackedLinear


class _Held:
    """The outputs for one input, until each sibling has taken its own."""

    def __init__(self, input: torch.Tensor, outputs: Sequence[torch.Tensor]) -> None:  # noqa: A002
        # the reference keeps the tensor alive, so that no other can pass for it
        self._input = input
        self._version = change_count(input)
        self._outputs = list(outputs)
        self._waiting = set(range(len(outputs)))

    def has(self, input: torch.Tensor, index: int) -> bool:  # noqa: A002
        """Whether sibling `index` has yet to take its output for this very tensor, unchanged since."""
        return input is self._input and index in self._waiting and change_count(input) == self._version

    def take(self, index: int) -> torch.Tensor:
        self._waiting.discard(index)
        return self._outputs[index]

    @property
    def is_done(self) -> bool:
        return not self._waiting


class MergedLinear(nn.Module):
    """The weights of several siblings in one linear layer; the first one asked computes for all.

    Right whatever the order: a sibling that is called alone, twice, or with another tensor gets a fresh result. What
    is held belongs to one tensor object, so that threads may lose each other's work but never mix it up.
    """

    def __init__(self, linear: Shared, widths: Sequence[int]) -> None:
        super().__init__()
        self.linear = linear
        self.widths = list(widths)
        self._held: _Held | None = None

    def output(self, input: torch.Tensor, index: int) -> torch.Tensor:  # noqa: A002
        """MergedLinearSlice `index`'s output [..., N] for [..., K]: a view of what all of them share."""
        held = self._held
        if held is None or not held.has(input, index):
            held = _Held(input, torch.split(self.linear(input), self.widths, dim=-1))
        taken = held.take(index)
        self._held = None if held.is_done else held
        return taken


class MergedLinearSlice(nn.Module):
    """Stands where one of the fused linear layers was."""

    def __init__(self, fused: MergedLinear, index: int, in_features: int, bias_N: torch.Tensor | None) -> None:
        super().__init__()
        self.fused = fused
        self.index = index
        self.in_features = in_features
        self.out_features = fused.widths[index]
        self.bias = bias_N

    @property
    def weight(self) -> torch.Tensor:
        """This sibling's weight [N, K], unpacked at each access: for the few models that read it."""
        return torch.split(self.fused.linear.weight, self.fused.widths)[self.index]

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's name
        """[..., K] to [..., N]."""
        return self.fused.output(input, self.index)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def shared_linear(*modules: nn.Module) -> Shared | None:
    """The linear layer that computes just the outputs of these siblings, in this order; None if there is none."""
    fused = {module.fused for module in modules if isinstance(module, MergedLinearSlice)}
    indices = [module.index for module in modules if isinstance(module, MergedLinearSlice)]
    if len(fused) != 1 or indices != list(range(len(modules))):
        return None
    (only,) = fused
    return only.linear if len(only.widths) == len(modules) else None
