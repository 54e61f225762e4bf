"""The only module that touches names of torch that are not public API: one function for each, and one test.

It stands beside `hf` and not in it: kernels and linear layers need it, and load without transformers.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def has_mkldnn_bf16() -> bool:
    """Whether oneDNN computes in bf16 on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def mkldnn_pack(weight_NK: torch.Tensor) -> torch.Tensor:
    """The weight in the order in which oneDNN's kernels read it: an opaque tensor."""
    return torch.as_tensor(torch.ops.mkldnn._reorder_linear_weight(weight_NK, None))


def mkldnn_linear(rows: torch.Tensor, packed: torch.Tensor, bias_N: torch.Tensor | None) -> torch.Tensor:
    """[..., K] to [..., N] by a weight of `mkldnn_pack`."""
    return torch.as_tensor(torch.ops.mkldnn._linear_pointwise(rows, packed, bias_N, "none", [], ""))


def mkldnn_memory(packed: torch.Tensor) -> tuple[int, int]:
    """Address and length in bytes of a weight of `mkldnn_pack`."""
    return int(torch.ops.mkldnn.data_ptr(packed)), int(torch.ops.mkldnn._nbytes(packed))


def int8_linear(rows_RK: torch.Tensor, levels_NK: torch.Tensor, scale_N: torch.Tensor) -> torch.Tensor:
    """Rows [R, K] by an int8 weight and the scale of each output: [R, N]. Widths are multiples of 16."""
    return torch._weight_int8pack_mm(rows_RK, levels_NK, scale_N)


def copy_all(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copies each source into its target, in one call."""
    torch._foreach_copy_(targets, sources)


def change_count(tensor: torch.Tensor) -> int:
    """How often the tensor was changed in place; 0 for inference tensors, which do not count their changes."""
    return 0 if tensor.is_inference() else tensor._version


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The module's children by name, to read and to replace: also those that hang in two places, or are None."""
    return module._modules


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's own parameters by name, to read and to replace."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """The module's own buffers by name, to read and to replace."""
    return module._buffers


def stored_buffers(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """Those of the module's own buffers that its state dict holds."""
    return {name: each for name, each in module._buffers.items() if name not in module._non_persistent_buffers_set}


def forward_hooks(module: nn.Module) -> list[Mapping[int, Any]]:
    """The hooks before and after the module's forward, now and later: live views, empty as long as there are none."""
    return [module._forward_pre_hooks, module._forward_hooks]


def move_forward_hooks(source: nn.Module, target: nn.Module) -> None:
    """Lets `target` have the hooks of `source`: one registry from then on, so that handles remove from both."""
    target._forward_pre_hooks = source._forward_pre_hooks
    target._forward_pre_hooks_with_kwargs = source._forward_pre_hooks_with_kwargs
    target._forward_hooks = source._forward_hooks
    target._forward_hooks_with_kwargs = source._forward_hooks_with_kwargs


def with_modules(module: nn.Module, modules: dict[str, nn.Module | None]) -> nn.Module:
    """A shallow copy of the module with other children; parameters and buffers are shared with the original."""
    copied = copy.copy(module)
    copied._modules = modules
    return copied
