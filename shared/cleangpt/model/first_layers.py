"""Runs a model up to one of its layers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def first_layers(model: nn.Module, path: str, count: int) -> Iterator[nn.ModuleList]:
    """Reduces the model's layers at `path` to the first `count` while the context lasts."""
    whole = model.get_submodule(path)
    kept = nn.ModuleList(list(whole.children())[:count])
    model.set_submodule(path, kept)
    try:
        yield kept
    finally:
        model.set_submodule(path, whole)
