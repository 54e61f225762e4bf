import copy
import ctypes

import pytest
import torch
from torch import nn

from splitlearn.torch_private import (
    change_count,
    copy_all,
    forward_hooks,
    has_mkldnn_bf16,
    int8_linear,
    mkldnn_linear,
    mkldnn_memory,
    mkldnn_pack,
    move_forward_hooks,
    own_buffers,
    own_modules,
    own_parameters,
    stored_buffers,
    with_modules,
)


def test_onednn_says_whether_it_computes_in_bf16() -> None:
    assert isinstance(has_mkldnn_bf16(), bool)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_a_packed_weight_multiplies_and_says_where_it_lies() -> None:
    weight, bias, rows = torch.randn(24, 16), torch.randn(24), torch.randn(3, 16)
    packed = mkldnn_pack(weight)
    torch.testing.assert_close(mkldnn_linear(rows, packed, bias), nn.functional.linear(rows, weight, bias))
    torch.testing.assert_close(mkldnn_linear(rows, packed, None), nn.functional.linear(rows, weight))
    address, n_bytes = mkldnn_memory(packed)
    assert n_bytes >= weight.nbytes
    assert any(ctypes.string_at(address, weight.nbytes))


def test_int8_weights_multiply_by_their_scales() -> None:
    dice = torch.Generator().manual_seed(0)
    levels = torch.randint(-127, 128, (16, 32), dtype=torch.int8, generator=dice)
    scale, rows = torch.rand(16, generator=dice), torch.randn(2, 32, generator=dice)
    expected = rows @ (levels * scale[:, None]).t()
    torch.testing.assert_close(int8_linear(rows, levels, scale), expected, rtol=1e-5, atol=1e-3)


def test_all_copies_are_made() -> None:
    targets, sources = [torch.zeros(2), torch.zeros(3, dtype=torch.bfloat16)], [torch.ones(2), torch.ones(3)]
    copy_all(targets, sources)
    assert all(bool(target.all()) for target in targets)


def test_changes_in_place_are_counted_but_for_inference_tensors() -> None:
    tensor = torch.zeros(2)
    before = change_count(tensor)
    tensor.add_(1)
    assert change_count(tensor) > before
    with torch.inference_mode():
        assert change_count(torch.zeros(2).add_(1)) == 0


def test_the_own_children_and_tensors_of_a_module_are_live() -> None:
    module = nn.BatchNorm1d(2)
    module.register_buffer("derived", torch.zeros(1), persistent=False)
    assert own_parameters(module).keys() == {"weight", "bias"}
    assert own_buffers(module).keys() == {"running_mean", "running_var", "num_batches_tracked", "derived"}
    assert stored_buffers(module).keys() == own_buffers(module).keys() - {"derived"}
    outer = nn.Sequential(module, module)
    own_modules(outer)["1"] = nn.Identity()
    assert isinstance(outer[1], nn.Identity)


def test_a_copy_with_other_children_leaves_the_module_as_it_was() -> None:
    outer = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    silent = with_modules(outer, {**own_modules(outer), "1": nn.Identity()})
    assert isinstance(silent, nn.Sequential)
    assert isinstance(silent[1], nn.Identity)
    assert isinstance(outer[1], nn.ReLU)
    assert silent[0] is outer[0]


@pytest.mark.parametrize("with_kwargs", [False, True])
def test_hooks_are_seen_while_they_are_there_and_go_over_to_another_module(with_kwargs: bool) -> None:
    module, other, seen = nn.Linear(2, 2), nn.Linear(2, 2), []
    hooks = forward_hooks(module)
    assert not any(hooks)
    handles = [
        module.register_forward_hook(lambda *_: seen.append("after"), with_kwargs=with_kwargs),
        module.register_forward_pre_hook(lambda *_: seen.append("before"), with_kwargs=with_kwargs),
    ]
    assert all(hooks)
    move_forward_hooks(module, other)
    other(torch.zeros(1, 2))
    assert seen == ["before", "after"]
    for handle in handles:
        handle.remove()
    other(torch.zeros(1, 2))
    assert len(seen) == 2
    assert not any(forward_hooks(copy.deepcopy(other)))
