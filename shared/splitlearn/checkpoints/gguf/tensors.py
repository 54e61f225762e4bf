"""The tensors of a GGUF file, read and dequantised when they are asked for."""

from collections.abc import Callable

import numpy as np
import torch

from splitlearn.checkpoints.gguf.header import GgufHeader, GgufTensor
from splitlearn.checkpoints.int4 import Int4Codes, Int4Groups
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows
from splitlearn.checkpoints.weight_files import StoredTensor


def stored(
    header: GgufHeader, tensor: GgufTensor, name: str, order: torch.Tensor | None, dtype: torch.dtype
) -> StoredTensor:
    """A tensor as one of a checkpoint.

    Args:
        name: what it is called there.
        order: for each of its rows, which row of the file it is; None if these are the same.
        dtype: of numbers that are stored as codes.
    """
    dequantize = tensor.kind.dequantize
    if dequantize is None:
        return StoredTensor(name, tensor.kind.dtype, tensor.shape, lambda: _in_order(numbers(header, tensor), order))
    block = tensor.kind.size
    shape = (*tensor.shape[:-1], tensor.shape[-1] // tensor.kind.values * block)
    codes = StoredTensor(tensor.name, torch.uint8, shape, lambda: _bytes(header, tensor).reshape(shape))

    def open_rows() -> Rows:
        packed = codes.read()

        def of(start: int, stop: int) -> torch.Tensor:
            some = packed[start:stop] if order is None else packed[order[start:stop]]
            return dequantize(some.reshape(-1, block)).reshape(stop - start, *tensor.shape[1:])

        return of

    def blocks() -> torch.Tensor:
        return _in_order(codes.read(), order).reshape(-1, block)

    return QuantizedWeight(name, tensor.shape, codes, None, open_rows, int4=_int4(tensor, blocks)).plain(dtype)


def _int4(tensor: GgufTensor, blocks: Callable[[], torch.Tensor]) -> Int4Codes | None:
    """How to read it as levels of 4 bits; None if it has others."""
    read, n_rows = tensor.kind.int4, tensor.shape[0]
    if read is None or len(tensor.shape) != 2:
        return None

    def groups() -> Int4Groups:
        _, scale, minimum = read(blocks())
        return Int4Groups(scale.reshape(n_rows, -1), None, None if minimum is None else minimum.reshape(n_rows, -1))

    return Int4Codes(tensor.kind.values, lambda: read(blocks()).levels.reshape(tensor.shape), groups)


def numbers(header: GgufHeader, tensor: GgufTensor) -> torch.Tensor:
    """The tensor in the dtype that it has in the file, for one that is not stored as codes."""
    return _bytes(header, tensor).view(tensor.kind.dtype).reshape(tensor.shape)


def _in_order(rows: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return rows if order is None else rows[order]


def _bytes(header: GgufHeader, tensor: GgufTensor) -> torch.Tensor:
    """Mapped, and never written: pages are the file's."""
    return torch.from_numpy(np.memmap(header.path, np.uint8, "c", tensor.offset, (tensor.size,)))
