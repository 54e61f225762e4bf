"""Digests of what a training is made from: a checkpoint is continued only with the same."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from cleangpt.data.batches import Batch


def digest_of_batches(batches: Iterable[Batch]) -> str:
    """A digest of the values, dtypes and shapes of batches, in their order."""
    digest = hashlib.sha256()
    for batch in batches:
        for each in fields(batch):
            _add(digest, getattr(batch, each.name))
    return digest.hexdigest()


def digest_of_weights(model: nn.Module) -> str:
    """A digest of the names and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, tuple):
        for each in value:
            _add(digest, each)
    else:
        digest.update(repr(value).encode())
