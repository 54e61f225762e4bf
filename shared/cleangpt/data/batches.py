"""The input of a training loop: the batches of each epoch, which are the same every time.

Shapes: B rows, T positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, Self, TypeVar, overload

import torch
from torch import Tensor

Source = TypeVar("Source")

TEXT = "text"
"""What a checkpoint calls the training's data, apart from how it is cut into batches."""


@dataclass(frozen=True)
class Batch:
    """Rows of token ids, padded on the right where they differ in length.

    `ids_BT` is int64 on the CPU. `learned_BT` is bool and marks the ids that the model has to predict from those
    before them; None means all but the first of each row.

    A batch with more data is a subclass whose fields are tensors of B rows or tuples of them.
    """

    ids_BT: Tensor  # noqa: N815 - a shape
    learned_BT: Tensor | None = None  # noqa: N815 - a shape

    def to(self, device: torch.device) -> Self:
        """The batch on `device`."""
        # the CPU could read a non-blocking copy before it is complete
        is_awaited = device.type == "cpu"
        return self._each(lambda rows: rows.to(device, non_blocking=not is_awaited))

    def of_rows(self, rows: slice) -> Self:
        """The batch with only these rows, in all fields."""
        return self._each(lambda whole: whole[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{each.name: _changed(getattr(self, each.name), change) for each in fields(self)})


class EpochBatches(Protocol):
    """The batches of each epoch. A resuming loop requests the same epoch again and skips the finished batches.

    Data may have a property `described`, which maps `TEXT` to a digest of its text and the names of its settings to
    their values: a checkpoint records these. Of other data all batches of the first epoch are read for that.
    """

    def batches(self, epoch: int) -> Sequence[Batch]:
        """The batches of `epoch`, counted from 0, in training order; each is made when it is indexed."""
        ...


class LazyBatches(Sequence[Batch], Generic[Source]):
    """One batch per entry of `sources`, which `make` creates each time it is indexed; nothing is cached."""

    def __init__(self, sources: Sequence[Source], make: Callable[[Source], Batch]) -> None:
        self._sources = sources
        self._make = make

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> "LazyBatches[Source]": ...
    def __getitem__(self, index: int | slice) -> "Batch | LazyBatches[Source]":
        if isinstance(index, slice):
            return LazyBatches(self._sources[index], self._make)
        return self._make(self._sources[index])


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, tuple):
        return tuple(_changed(each, change) for each in value)
    return change(value) if isinstance(value, Tensor) else value
