import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING

from splitlearn.hf.init import NoRandomNumbers, initialize, keep_values, kept_in_fp32
from splitlearn.model.layout import build_on_meta
from support.tiny_models import random_model, tiny_config


@pytest.mark.parametrize("draw", ["normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"])
def test_nothing_is_drawn_inside_and_everything_outside(draw: str) -> None:
    with NoRandomNumbers():
        assert not getattr(nn.init, draw)(torch.zeros(4, 4)).any()
    assert getattr(nn.init, draw)(torch.zeros(4, 4)).any()


def test_a_module_is_initialized_but_for_what_has_its_values() -> None:
    config = tiny_config("llama")
    model, expected = build_on_meta(config), random_model(config).model.rotary_emb.inv_freq
    rotary, embedding, head = model.model.rotary_emb, model.model.embed_tokens, model.lm_head
    rotary.inv_freq = torch.zeros(8)
    for module in (embedding, head):
        module.weight = nn.Parameter(torch.zeros(module.weight.shape))
    keep_values([head.weight])
    for module in (rotary, embedding, head):
        initialize(model, module)
    assert torch.equal(rotary.inv_freq, expected)
    assert embedding.weight.any()
    assert not head.weight.any()


def test_the_modules_that_stay_in_fp32_are_named() -> None:
    experts = build_on_meta(CONFIG_MAPPING["deepseek_v3"](num_hidden_layers=1))
    assert any("e_score_correction_bias" in name for name in kept_in_fp32(experts, torch.bfloat16))
    assert not kept_in_fp32(build_on_meta(tiny_config("llama")), torch.bfloat16)
