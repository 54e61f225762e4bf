import json
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, Gemma3nTextConfig
from transformers.initialization import guard_torch_init_functions

from architectures.small_configs import small_config
from splitlearn.errors import UnsupportedModel
from splitlearn.hf.init import NoRandomNumbers
from splitlearn.model.layout import build_on_meta, config_from_dict, inspect_model, leave_out
from support.tiny_models import ARCHITECTURES, tiny_config


def test_every_tensor_of_a_llama_has_a_place() -> None:
    model = build_on_meta(tiny_config("llama"))
    layout = inspect_model(model)
    assert layout.place("model.embed_tokens.weight") == ("begin", None, "embed_tokens.weight")
    assert layout.place("model.layers.3.self_attn.q_proj.weight") == ("mid", 3, "self_attn.q_proj.weight")
    assert layout.place("model.norm.weight") == ("end", None, "norm.weight")
    assert layout.place("lm_head.weight") == ("end", None, "lm_head.weight")


@pytest.mark.parametrize("model_type", list(ARCHITECTURES))
def test_no_two_tensors_share_a_place(model_type: str) -> None:
    model = build_on_meta(tiny_config(model_type))
    layout = inspect_model(model)
    keys = list(model.state_dict(keep_vars=True))
    assert len({layout.place(key) for key in keys}) == len(keys)


def test_a_final_norm_defined_before_the_layers_still_belongs_to_the_end() -> None:
    layout = inspect_model(build_on_meta(tiny_config("opt")))
    assert layout.place("model.decoder.final_layer_norm.weight")[0] == "end"


def test_a_tensor_of_no_part_is_refused_by_name() -> None:
    layout = inspect_model(build_on_meta(tiny_config("llama")))
    with pytest.raises(UnsupportedModel, match=r"vision\.weight"):
        layout.place("vision.weight")


def test_a_model_whose_layers_take_token_embeddings_is_refused_with_the_reason() -> None:
    config = Gemma3nTextConfig(vocab_size=64, hidden_size=32, num_hidden_layers=4, vocab_size_per_layer_input=64)
    with pytest.raises(UnsupportedModel, match="embeddings of the token ids"):
        inspect_model(build_on_meta(config))


def test_layers_may_lie_deeper_than_the_embeddings_and_a_head_may_be_made_of_several_modules() -> None:
    config = BertConfig(vocab_size=64, hidden_size=32, num_attention_heads=2, is_decoder=True)
    layout = inspect_model(build_on_meta(config))
    assert layout.layers == "bert.encoder.layer"
    assert layout.place("bert.embeddings.position_embeddings.weight")[0] == "begin"
    assert layout.place("cls.predictions.transform.dense.weight")[0] == "end"
    assert layout.suffix_modules[-1] == "cls.predictions.decoder"


def test_a_head_defined_before_the_layers_still_belongs_to_the_end() -> None:
    layout = inspect_model(build_on_meta(small_config("camembert")))
    assert layout.place("lm_head.dense.weight")[0] == "end"


def test_a_norm_of_the_embeddings_defined_behind_the_layers_belongs_to_the_beginning() -> None:
    assert (
        inspect_model(build_on_meta(small_config("mbart"))).place("model.decoder.layernorm_embedding.weight")[0]
        == "begin"
    )
    pegasus = inspect_model(build_on_meta(small_config("bigbird_pegasus")))
    assert pegasus.place("model.decoder.layernorm_embedding.weight")[0] == "end"


def test_towers_for_images_are_left_out() -> None:
    model = build_on_meta(small_config("gemma3"))
    layout = inspect_model(model)
    assert "model.vision_tower" in layout.unused
    leave_out(model, layout.unused)
    assert not any("vision" in name for name in model.state_dict(keep_vars=True))


def test_a_decoder_that_takes_no_cache_is_refused() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small_config("openai-gpt"))
    with pytest.raises(UnsupportedModel, match="no cache that a part could hold"):
        inspect_model(model)


def test_infinity_in_a_config_is_read_as_it_is_written() -> None:
    values = json.loads(json.dumps(small_config("mamba2").to_dict(), default=str))
    config = config_from_dict({**values, "time_step_limit": [0.0, {"__float__": "Infinity"}]})
    assert config.time_step_limit[1] == float("inf")


def test_an_unknown_model_type_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="'newest'"):
        config_from_dict({"model_type": "newest"})


def test_building_without_memory_leaves_other_threads_random_numbers_alone() -> None:
    entered, drawn = threading.Event(), threading.Event()
    found: list[torch.Tensor] = []

    def draw() -> None:
        entered.wait()
        found.append(torch.nn.init.normal_(torch.zeros(8)))
        drawn.set()

    other = threading.Thread(target=draw)
    other.start()
    with NoRandomNumbers():
        entered.set()
        assert drawn.wait(10)
        assert not torch.nn.init.normal_(torch.zeros(8)).any()
    other.join()
    assert found[0].all()


def test_building_without_memory_draws_nothing_where_transformers_has_changed_torch() -> None:
    with guard_torch_init_functions(), NoRandomNumbers():
        assert not torch.nn.init.normal_(torch.zeros(8)).any()


def test_a_config_with_values_that_cannot_be_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedModel, match=r"this llama.*not a multiple of the number of attention"):
        config_from_dict({"model_type": "llama", "hidden_size": 10, "num_attention_heads": 3})
