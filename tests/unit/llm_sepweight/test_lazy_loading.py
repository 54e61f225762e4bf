"""Filling modules with mapped weights.

Shape suffixes: V vocabulary, D hidden size.
"""

import pytest
import torch
from torch import nn

from llm_sepweight import ModuleMismatchError, dump, lazy_load


def bare(shape):
    """A module with one empty bf16 weight on the meta device."""
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.empty(shape, dtype=torch.bfloat16, device="meta")))
    return module


@pytest.fixture
def part():
    """A module with the names of the part `b 1-2` of the fixture's model."""
    return nn.ModuleDict(
        {
            "begin": nn.ModuleDict({"embed_tokens": bare((11, 4))}),
            "mid": nn.ModuleDict({"1": nn.ModuleDict({"mlp": bare((4, 4))})}),
        }
    )


def test_a_module_gets_its_parts_tensors(model, part):
    assert lazy_load(part, model.path, "b 1-2") is part
    assert torch.equal(part["begin"]["embed_tokens"].weight, model.embed)
    assert torch.equal(part["mid"]["1"]["mlp"].weight, model.layers[1])
    assert isinstance(part["mid"]["1"]["mlp"].weight, nn.Parameter)


def test_nothing_is_read_before_it_is_touched(tmp_path, anonymous_memory):
    rows = 16 * 2**20 // 64
    weight = torch.ones(rows, 16)
    dump(decider=lambda key: ["mid", "0", key], state_dict={"weight": weight}, out_path=tmp_path)
    del weight
    module = nn.ModuleDict({"mid": nn.ModuleDict({"0": nn.Linear(16, rows, bias=False, device="meta")})})
    before = anonymous_memory()
    lazy_load(module, tmp_path, "0-1")
    assert anonymous_memory() - before < 4 * 2**20
    assert float(module["mid"]["0"].weight.detach()[-1, -1]) == 1


def test_a_module_of_other_names_takes_a_renaming(model):
    module = nn.ModuleDict({"block": bare((4, 4))})
    lazy_load(module, model.path, "2-3", rename=lambda key: key.replace("mid.2.mlp.", "block."))
    assert torch.equal(module["block"].weight, model.layers[2])


def test_tied_weights_share_memory(model):
    names = {"begin.embed_tokens.weight": "embed.weight", "end.lm_head.weight": "head.weight"}
    module = nn.ModuleDict({"embed": bare((11, 4)), "head": bare((11, 4)), "norm": bare((4,))})
    lazy_load(module, model.path, "b e", rename=lambda key: names.get(key, "norm.weight"))
    assert module["embed"].weight.data_ptr() == module["head"].weight.data_ptr()


def test_a_module_that_does_not_fit_is_refused_with_the_names(model, part):
    with pytest.raises(ModuleMismatchError, match=r"(?s)ModuleDict.*'1-2'.*begin\.embed_tokens\.weight"):
        lazy_load(part, model.path, "1-2")
    part["mid"]["1"]["mlp"] = bare((4, 5))
    with pytest.raises(ModuleMismatchError, match="size mismatch"):
        lazy_load(part, model.path, "b 1-2")
