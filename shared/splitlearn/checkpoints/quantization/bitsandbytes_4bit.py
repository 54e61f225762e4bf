"""A weight of bitsandbytes in 4 bits: its state, its scales, its codes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch

from splitlearn.checkpoints.quantization.arithmetic import FLOATS, unpack
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows, beside, check, fail
from splitlearn.checkpoints.weight_files import StoredTensor

STATE = ".quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_LONGEST_STATE = 4096
# bytes, or any dtype that is read as bytes (bnb_4bit_quant_storage)
_STORAGES = (torch.uint8, torch.int8, *FLOATS)


@dataclass(frozen=True)
class _State:
    """What the JSON says.

    Attributes:
        shape: of the weight.
        block: how many numbers have one scale.
        nested: how many scales have one scale of their own; None if they are numbers.
        offset: what is added to scales that are nested.
    """

    shape: tuple[int, ...]
    block: int
    nested: int | None
    offset: float

    @classmethod
    def read(cls, tensor: StoredTensor) -> "_State":
        """Raises BadCheckpoint."""
        if tensor.dtype != torch.uint8 or len(tensor.shape) != 1 or tensor.shape[0] > _LONGEST_STATE:
            raise fail(tensor.key, f"should be a short text in bytes, and has the shape {list(tensor.shape)}")
        try:
            values = json.loads(bytes(tensor.read().tolist()))
        except (ValueError, RecursionError) as error:
            raise fail(tensor.key, f"is not JSON: {error}") from error
        if not isinstance(values, Mapping):
            raise fail(tensor.key, "is not a JSON object")
        shape, block, nested = values.get("shape"), values.get("blocksize"), values.get("nested_blocksize")
        offset = values.get("nested_offset", 0.0)
        if not (isinstance(shape, list) and len(shape) == 2 and all(map(_is_size, shape)) and _is_size(block)):
            raise fail(tensor.key, "lacks shape and blocksize, or has some that are no sizes")
        if not (nested is None or _is_size(nested)) or not isinstance(offset, int | float):
            raise fail(tensor.key, "has a nested_blocksize or nested_offset that is no number")
        return cls((shape[0], shape[1]), block, nested, float(offset))


def _is_size(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def four_bit_weight(
    declared: Declaration, name: str, kind: str, state: StoredTensor, stored: Mapping[str, StoredTensor]
) -> QuantizedWeight:
    """The weight `name`, of codes of this kind, to which a state belongs.

    Raises:
        UnsupportedModel: another kind.
        BadCheckpoint: a tensor is missing or has another shape or dtype than the state says.
    """
    if kind not in _KINDS:
        raise declared.refuse(f"codes of the kind {kind} ({state.key})")
    said = _State.read(state)
    size = math.prod(said.shape)
    codes = beside(stored, name, state.key)
    if codes.dtype not in _STORAGES or math.prod(codes.shape) * codes.dtype.itemsize != -(-size // 2):
        raise fail(codes.key, f"does not hold {size} codes of 4 bits, as {list(said.shape)} has")
    numbers = check(beside(stored, f"{name}.quant_map", state.key), (torch.float32,), [(16,)])
    n_blocks = -(-size // said.block)
    absmax = beside(stored, f"{name}.absmax", state.key)
    nested: tuple[StoredTensor, ...] = ()
    if said.nested is None:
        check(absmax, (torch.float32,), [(n_blocks,)])
    else:
        check(absmax, (torch.uint8,), [(n_blocks,)])
        scales = check(
            beside(stored, f"{name}.nested_absmax", state.key), (torch.float32,), [(-(-n_blocks // said.nested),)]
        )
        nested = (scales, check(beside(stored, f"{name}.nested_quant_map", state.key), (torch.float32,), [(256,)]))

    def rows() -> Rows:
        packed, table = codes.read().reshape(-1).view(torch.uint8), numbers.read()
        scale = absmax.read() if said.nested is None else _scales(absmax, nested, said)
        width = said.shape[1]

        def of(start: int, stop: int) -> torch.Tensor:
            first, last = start * width, stop * width
            some = table[_codes(packed[first // 2 : -(-last // 2)])[: last - first].to(torch.int32)]
            return (some * scale[torch.arange(first, last) // said.block]).reshape(stop - start, width)

        return of

    return QuantizedWeight(name, said.shape, codes, absmax, rows, beside=(state, numbers, *nested))


def _codes(packed: torch.Tensor) -> torch.Tensor:
    """Codes in order; of a byte, the one in the upper bits comes first."""
    return unpack(packed, 4).reshape(-1, 2).flip(1).reshape(-1)


def _scales(absmax: StoredTensor, nested: tuple[StoredTensor, ...], said: _State) -> torch.Tensor:
    scales, table = (tensor.read() for tensor in nested)
    codes = absmax.read().to(torch.int32)
    return table[codes] * scales[torch.arange(len(codes)) // (said.nested or 1)] + said.offset
