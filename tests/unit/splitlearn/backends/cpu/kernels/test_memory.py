"""Each kernel that allocates says so when it cannot, and goes on to work."""

import ctypes
from collections.abc import Callable

import pytest
import torch

from splitlearn.backends.cpu.kernels import Kernels, kernels
from splitlearn.backends.cpu.kernels.structs import (
    AttendCall,
    Descriptor,
    ExpertsCall,
    Layer,
    Layers,
    LayersCall,
    LinearCall,
    Session,
)
from splitlearn.backends.cpu.linear import NativeInt8Linear, NativeLinear

pytestmark = pytest.mark.usefixtures("every_set")
# more than any machine has, and not so much that sizes in bytes overflow
TOO_MANY = 2**44


def too_many_rows(library: Kernels) -> None:
    module = NativeInt8Linear(torch.ones(16, 16).bfloat16())
    structure = module.descriptor.structure
    library.linear(LinearCall(None, None, TOO_MANY, 16, structure, 2))


def too_many_sessions(library: Kernels) -> None:
    library.attend(AttendCall(None, TOO_MANY, n_heads=1, n_kv_heads=1, head_dim=16, n_threads=2))


def too_wide_heads(library: Kernels) -> None:
    """No worker has memory for its part."""
    session = Session(n_rows=1, n_new=1)
    library.attend(
        AttendCall(ctypes.addressof(session), 1, n_heads=1, n_kv_heads=1, head_dim=TOO_MANY, n_threads=2),
    )


def too_many_rows_for_a_layer(library: Kernels) -> None:
    parts = [NativeLinear(torch.ones(16, 16).bfloat16()).descriptor for _ in range(4)]
    names = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    layer = Layer(**{name: part.structure for name, part in zip(names, parts, strict=True)})
    layers = Layers([Descriptor(layer, tuple(tensor for part in parts for tensor in part.tensors))])
    library.layers(LayersCall(layers.address, layers.count, n_rows=TOO_MANY, n_threads=2))


def too_many_rows_for_experts(library: Kernels) -> None:
    part = NativeLinear(torch.ones(16, 16).bfloat16()).descriptor
    sizes = {"n_rows": TOO_MANY, "n_choices": 2, "n_experts": 4, "n_threads": 2}
    library.experts(ExpertsCall(gate_up_proj=part.structure, down_proj=part.structure, **sizes))


CALLS = [too_many_rows, too_many_sessions, too_wide_heads, too_many_rows_for_a_layer, too_many_rows_for_experts]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_memory_that_cannot_be_had_is_an_error(call: Callable[[Kernels], None]) -> None:
    library = kernels()
    assert library is not None
    with pytest.raises(MemoryError, match="no memory for the kernel"):
        call(library)
    module = NativeInt8Linear(torch.ones(16, 16).bfloat16())
    assert torch.equal(module(torch.ones(1, 16).bfloat16()), torch.full((1, 16), 16.0).bfloat16())
