"""Digests of what a training is made from: a checkpoint is continued only with the same."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from cleangpt.data.batches import TEXT, Batch

START_WEIGHTS = "start weights"
"""The name under which a checkpoint has the digest of the weights that its training started from."""


def digest_of_batches(batches: Iterable[Batch]) -> str:
    """A digest of the values, dtypes and shapes of batches, in their order."""
    digest = hashlib.sha256()
    for batch in batches:
        for each in fields(batch):
            _add(digest, getattr(batch, each.name))
    return digest.hexdigest()


def description_of_batches(batches: Iterable[Batch]) -> dict[str, str]:
    """A digest of the rows, however they are cut into batches, and the size of the batches.

    Rows that are padded to the longest of their batch depend on the size too.
    """
    digest, sizes = hashlib.sha256(), list[int]()
    for batch in batches:
        sizes.append(len(batch.ids_BT))
        for row in range(sizes[-1]):
            for each in fields(batch):
                _add(digest, getattr(batch.of_rows(slice(row, row + 1)), each.name))
    return {TEXT: digest.hexdigest(), "batch_size": _size_of_batches(sizes)}


def digest_of_weights(model: nn.Module) -> str:
    """A digest of the names and values of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()


def _size_of_batches(sizes: Sequence[int]) -> str:
    if not sizes:
        return "0"
    # how many rows the last batch has, the digest of all rows tells
    if all(size == sizes[0] for size in sizes[:-1]) and sizes[-1] <= sizes[0]:
        return str(sizes[0])
    return f"varying ({hashlib.sha256(str(sizes).encode()).hexdigest()[:8]})"


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, tuple):
        for each in value:
            _add(digest, each)
    else:
        digest.update(repr(value).encode())
