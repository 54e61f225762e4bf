import torch
from transformers import CONFIG_MAPPING

from splitlearn.hf.conversion import Conversions, as_in_checkpoint, convert, natural_order
from splitlearn.model.layout import build_on_meta
from support.tiny_models import tiny_config


def test_a_tensor_that_is_only_renamed_gets_its_name_in_memory() -> None:
    model = build_on_meta(tiny_config("gpt2"))
    assert Conversions(model).name("h.0.ln_1.weight") == "transformer.h.0.ln_1.weight"
    assert Conversions(model).name_and_pattern("h.0.ln_1.weight") == ("transformer.h.0.ln_1.weight", None)


def test_experts_are_stacked_in_their_order() -> None:
    n_experts = 11
    small = {"hidden_size": 4, "intermediate_size": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = CONFIG_MAPPING["mixtral"](num_hidden_layers=1, num_local_experts=n_experts, vocab_size=8, **small)
    model = build_on_meta(config)
    conversions = Conversions(model)
    keys = [f"model.layers.0.block_sparse_moe.experts.{i}.w2.weight" for i in range(n_experts)]
    named = {key: conversions.name_and_pattern(key) for key in keys}
    ((target, pattern),) = set(named.values())
    assert pattern is not None
    stored = {key: torch.full((4, 3), float(i)) for i, key in enumerate(keys)}
    inputs = [(pattern, key, lambda key=key: stored[key]) for key in sorted(keys, key=natural_order)]
    for _ in range(2):
        made = convert(conversions.converter(pattern), target, model, inputs)
        assert list(made) == [target]
        assert torch.equal(made[target], torch.stack(list(stored.values())))
        assert made[target].shape == model.state_dict()[target].shape


def test_tensors_in_memory_go_back_under_the_names_of_a_checkpoint() -> None:
    n_experts = 3
    small = {"hidden_size": 4, "intermediate_size": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = build_on_meta(
        CONFIG_MAPPING["mixtral"](num_hidden_layers=1, num_local_experts=n_experts, vocab_size=8, **small)
    )
    stacked = torch.randn(n_experts, 4, 3)
    found = as_in_checkpoint(model, {"model.layers.0.mlp.experts.down_proj": stacked})
    expected = {f"model.layers.0.block_sparse_moe.experts.{i}.w2.weight": each for i, each in enumerate(stacked)}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], each) for name, each in expected.items())
