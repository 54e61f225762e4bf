"""A weight is dequantised some rows at a time, and rounded once."""

import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from splitlearn.checkpoints.convert import prepare
from splitlearn.checkpoints.quantization import weight as module
from splitlearn.checkpoints.quantization.gptq import Gptq
from splitlearn.checkpoints.quantization.weight import QuantizedWeight, Rows
from splitlearn.checkpoints.weight_files import StoredTensor
from support.packed_codes import RandomCodes
from support.quantized_checkpoints import State, save_quantized, written

CODES = StoredTensor.of("codes", torch.zeros(1))


def weight_of(values: torch.Tensor, asked: list[tuple[int, int]]) -> QuantizedWeight:
    def open_rows() -> Rows:
        def rows(start: int, stop: int) -> torch.Tensor:
            asked.append((start, stop))
            return values[start:stop]

        return rows

    return QuantizedWeight("w", tuple(values.shape), CODES, CODES, open_rows)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (100, [(0, 7)]),
        (12, [(0, 4), (4, 7)]),
        (9, [(0, 2), (2, 4), (4, 6), (6, 7)]),
        (1, [(0, 2), (2, 4), (4, 6), (6, 7)]),
    ],
)
def test_rows_are_computed_in_blocks_of_an_even_number(
    monkeypatch: pytest.MonkeyPatch, most: int, expected: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(module, "BLOCK_VALUES", most)
    values, asked = torch.randn(7, 3), list[tuple[int, int]]()
    assert torch.equal(weight_of(values, asked).dequantize(torch.float32), values)
    assert asked == expected


def test_numbers_are_rounded_to_the_dtype_once() -> None:
    values = torch.randn(4, 4)
    assert torch.equal(weight_of(values, []).dequantize(torch.bfloat16), values.to(torch.bfloat16))


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that was made, of each dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and function.is_view is False:
            self.seen.append(math.prod(made.shape) * made.itemsize)
        return made


def test_memory_is_that_of_the_codes_the_weight_and_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is made on the way is as small as a block of rows, and of the weight there is one copy."""
    monkeypatch.setattr(module, "BLOCK_VALUES", 4096)
    codes = RandomCodes(512, 256, 32, 4)
    stored = {f"x.{name}": StoredTensor.of(f"x.{name}", each) for name, each in codes.gptq().items()}
    (weight,) = Gptq(4, 32, 1).weights(stored)
    with LargestTensor() as largest:
        weight.dequantize(torch.bfloat16)
    whole = 512 * 256 * 2
    assert [size for size in largest.seen if size > 16384 * 2] == [whole]


def test_a_conversion_holds_one_weight_at_a_time(tmp_path: Path) -> None:
    """Of all that are read, none is alive when the next is."""

    def quantize(name: str, tensor: torch.Tensor) -> State:
        return RandomCodes(*tensor.shape, 16, 4).gptq()

    folder = save_quantized(tmp_path / "gptq", {"quant_method": "gptq", "bits": 4, "group_size": 16}, quantize)
    conversion = prepare(str(folder))
    alive: list[weakref.ref[torch.Tensor]] = []
    for tensors in conversion.sections.values():
        for source in tensors:
            read = source.read()
            # without a garbage collection: what is held until the next one adds up
            assert sum(each() is not None for each in alive) == 0
            alive.append(weakref.ref(read))
            del read
    assert len(written(conversion)) == len(alive)
