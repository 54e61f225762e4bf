"""A weight that is stored as codes, scales and perhaps zeros, and how it becomes numbers."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from splitlearn.checkpoints.int4 import Int4Codes
from splitlearn.checkpoints.weight_files import StoredTensor
from splitlearn.errors import BadCheckpoint

BLOCK_VALUES = 2**22
"""How many values are in float32 at a time while a weight is dequantised."""

Rows = Callable[[int, int], torch.Tensor]
"""Gives the rows from the first index to the second, along a weight's first axis, as float32 numbers."""


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight of a model, in its checkpoint's packing. Only its outlines are known until it is asked for.

    Attributes:
        name: what the weight is called where it is not quantised.
        shape: of the weight, not of the codes.
        codes: as they are packed.
        scales: what codes are multiplied by; None if they stand among the codes.
        zeros: what is subtracted from codes before, if it is stored.
        beside: what else belongs to the weight.
        open: reads all these, and returns what computes rows of the weight of them.
        int4: the same as levels of 4 bits in groups of inputs, where that is what they are.
    """

    name: str
    shape: tuple[int, ...]
    codes: StoredTensor
    scales: StoredTensor | None
    open: Callable[[], Rows]
    zeros: StoredTensor | None = None
    beside: tuple[StoredTensor, ...] = ()
    int4: Int4Codes | None = None

    @property
    def keys(self) -> list[str]:
        """The names of all that is stored of it."""
        stored = (self.codes, self.scales, self.zeros, *self.beside)
        return [tensor.key for tensor in stored if tensor is not None]

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight in `dtype`: computed in float32 and rounded once, some rows at a time.

        Raises:
            BadCheckpoint: the codes cannot be read with what stands beside them.
        """
        weight = torch.empty(self.shape, dtype=dtype)
        rows = self.open()
        # of a matrix an even number: codes of 4 bits then begin at whole bytes, however wide a row is
        least = 2 if len(self.shape) == 2 else 1
        step = max(least, BLOCK_VALUES // math.prod(self.shape[1:]) // least * least)
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            weight[start:stop] = rows(start, stop)
        return weight

    def plain(self, dtype: torch.dtype) -> StoredTensor:
        """The weight as any other tensor of the checkpoint, dequantised each time that it is read."""
        made_of = tuple(self.keys)
        return StoredTensor(self.name, dtype, self.shape, lambda: self.dequantize(dtype), made_of, self.int4)


class QuantizedFormat(Protocol):
    """What a checkpoint's config says of how its weights are quantised."""

    @property
    def title(self) -> str:
        """The format and its options, for errors."""

    def weights(self, stored: Mapping[str, StoredTensor]) -> Iterator[QuantizedWeight]:
        """The weights that are stored as codes.

        Raises:
            BadCheckpoint: a tensor is missing or has a shape or dtype that the format does not allow.
        """


def fail(key: str, reason: str) -> BadCheckpoint:
    """The error of a stored tensor that cannot be read, by its name."""
    return BadCheckpoint(f"{key} {reason}; download the checkpoint again")


def beside(stored: Mapping[str, StoredTensor], key: str, needed_by: str) -> StoredTensor:
    """A tensor that another one cannot be read without.

    Raises:
        BadCheckpoint: it is not stored.
    """
    if key not in stored:
        raise fail(needed_by, f"is quantised, but {key} is missing")
    return stored[key]


def check(tensor: StoredTensor, dtypes: Collection[torch.dtype], shapes: Iterable[tuple[int, ...]]) -> StoredTensor:
    """The tensor itself.

    Raises:
        BadCheckpoint: its dtype or its shape is none of these.
    """
    wanted = list(shapes)
    if tensor.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise fail(tensor.key, f"should be {names}, and is {str(tensor.dtype).removeprefix('torch.')}")
    if tensor.shape not in wanted:
        listed = " or ".join(str(list(shape)) for shape in wanted)
        raise fail(tensor.key, f"should have the shape {listed}, and has {list(tensor.shape)}")
    return tensor


def matrix(tensor: StoredTensor) -> tuple[int, int]:
    """The sizes of a tensor of two axes.

    Raises:
        BadCheckpoint: it has more or fewer, or is empty.
    """
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise fail(tensor.key, f"should be a matrix, and has the shape {list(tensor.shape)}")
    return tensor.shape[0], tensor.shape[1]
