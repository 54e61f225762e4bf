"""How transformers builds models and gives their tensors first values."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.initialization import guard_torch_init_functions


class NoRandomNumbers(TorchFunctionMode):
    """Leaves out the drawing of random numbers, which for tensors without memory takes most of the time.

    On this thread alone: transformers' own `no_init_weights` changes torch for all of them, and for good where two
    threads build models at once.
    """

    # by their names: transformers puts functions of its own in the place of torch's while it makes a model, and
    # leaves them there where two threads do so at once
    _DRAWING = frozenset(
        {"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"}
        | {"xavier_uniform_", "xavier_normal_", "orthogonal_"}
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", None) in self._DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def keep_values(tensors: Iterable[torch.Tensor]) -> None:
    """Marks tensors as having their values, so that `initialize` leaves them alone."""
    for tensor in tensors:
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]


def initialize(owner: PreTrainedModel, module: nn.Module) -> None:
    """Gives the own tensors of a module inside `owner` first values, but for those of `keep_values`."""
    with torch.no_grad(), guard_torch_init_functions():
        owner._initialize_weights(module)


def kept_in_fp32(model: PreTrainedModel, dtype: torch.dtype) -> list[str]:
    """Names, or ends of names, of the modules that stay in fp32 when the model runs in `dtype`."""
    return list(model._get_dtype_plan(dtype))
