from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from splitlearn.hf.attention_interface import AttentionSwitch, choose_attention, supports_attention_interface
from support.tiny_models import random_model, tiny_config


def test_a_switched_model_attends_with_the_other_function_and_afterwards_with_its_own() -> None:
    asked: list[torch.nn.Module] = []

    def attend(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        asked.append(module)
        return AttentionInterface()["sdpa"](module, *args, **kwargs)

    AttentionInterface.register("counted", attend)
    AttentionMaskInterface.register("counted", AttentionMaskInterface()["sdpa"])
    model, ids = random_model(tiny_config("llama")), torch.arange(4)[None]
    expected = model(ids).logits
    switch = AttentionSwitch(model.modules())
    with switch.to("counted"):
        assert torch.equal(model(ids).logits, expected)
    assert len(asked) == len(model.model.layers)
    model(ids)
    assert len(asked) == len(model.model.layers)


def test_a_model_says_whether_it_can_be_switched() -> None:
    model = random_model(tiny_config("llama"))
    assert supports_attention_interface(model)
    type(model)._supports_attention_backend, before = False, type(model)._supports_attention_backend
    try:
        assert not supports_attention_interface(model)
    finally:
        type(model)._supports_attention_backend = before


def test_a_config_chooses_what_its_model_attends_with() -> None:
    config = tiny_config("llama")
    choose_attention(config, "eager")
    assert random_model(config)(torch.arange(4)[None], output_attentions=True).attentions[0] is not None
