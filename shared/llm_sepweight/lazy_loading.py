"""Fills a module with mapped weights, which are read when first touched."""

import os
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from llm_sepweight.errors import ModuleMismatchError
from llm_sepweight.loading import load
from llm_sepweight.part_spec import PartSpec

M = TypeVar("M", bound=nn.Module)


def lazy_load(
    module: M,
    path: str | os.PathLike[str],
    part_spec: str | PartSpec = "f",
    *,
    rename: Callable[[str], str] | None = None,
) -> M:
    """Replace the module's parameters and buffers with a part's tensors, without reading or copying any of them.

    The module may be on the meta device, so that it never uses memory of its own. Its state dict must have the
    part's keys (`begin.x`, `mid.3.x` and `end.x`, or what `rename` returns for them) and the tensors' shapes. It
    takes on their dtypes.

    Returns the module. Raises what `load` raises, and ModuleMismatchError.
    """
    tensors = load(path, part_spec).to_dict()
    if rename is not None:
        tensors = {rename(key): tensor for key, tensor in tensors.items()}
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ModuleMismatchError(type(module).__name__, str(part_spec), str(error)) from error
    return module
