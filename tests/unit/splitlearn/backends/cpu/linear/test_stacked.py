import ctypes

import pytest
import torch

from splitlearn.backends.cpu.linear import Native, NativeInt4Linear, NativeInt8Linear, NativeLinear
from splitlearn.backends.cpu.linear.stacked import StackedLinear

pytestmark = pytest.mark.usefixtures("every_set")
Kind = type[Native]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kind", [NativeLinear, NativeInt8Linear, NativeInt4Linear])
def test_each_layer_lies_behind_the_one_before(kind: Kind, biases: bool) -> None:
    layers = [(random(20, 12, seed=i), random(20, seed=i) if biases else None) for i in range(3)]
    stacked = StackedLinear(kind, layers, 3)
    alone = [kind(*layer).descriptor for layer in layers]
    assert (stacked.structure.n_inputs, stacked.structure.n_outputs) == (12, 20)
    for name, is_there in {
        "weight": True,
        "scales": kind is NativeInt8Linear,
        "group_scales": kind is NativeInt4Linear,
        "bias": biases,
    }.items():
        assert (getattr(stacked.structure, name).value is not None) == is_there
    first = torch.frombuffer(bytes_at(stacked), dtype=torch.uint8)
    expected = torch.cat([each.tensors[0].flatten().view(torch.uint8) for each in alone])
    assert torch.equal(first, expected)


def bytes_at(stacked: StackedLinear) -> bytearray:
    assert stacked.span.address == stacked.structure.weight.value
    return bytearray(ctypes.string_at(stacked.span.address, stacked.span.n_bytes))


def test_weights_that_were_packed_are_needed_no_more() -> None:
    weight_NK = random(16, 8)
    stacked = StackedLinear(NativeLinear, iter([(weight_NK, None)]), 1)
    before = bytes_at(stacked)
    weight_NK.zero_()
    assert bytes_at(stacked) == before
