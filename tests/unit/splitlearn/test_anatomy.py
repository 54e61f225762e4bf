import pytest
from transformers import BertConfig, Gemma3nTextConfig

from splitlearn.anatomy import build_on_meta, config_from_dict, study
from splitlearn.errors import UnsupportedModel
from support.tiny_models import ARCHITECTURES, tiny_config


def test_every_tensor_of_a_llama_has_a_place() -> None:
    model = build_on_meta(tiny_config("llama"))
    anatomy = study(model)
    assert anatomy.place("model.embed_tokens.weight") == ("begin", None, "embed_tokens.weight")
    assert anatomy.place("model.layers.3.self_attn.q_proj.weight") == ("mid", 3, "self_attn.q_proj.weight")
    assert anatomy.place("model.norm.weight") == ("end", None, "norm.weight")
    assert anatomy.place("lm_head.weight") == ("end", None, "lm_head.weight")


@pytest.mark.parametrize("model_type", list(ARCHITECTURES))
def test_no_two_tensors_share_a_place(model_type: str) -> None:
    model = build_on_meta(tiny_config(model_type))
    anatomy = study(model)
    keys = list(model.state_dict(keep_vars=True))
    assert len({anatomy.place(key) for key in keys}) == len(keys)


def test_a_final_norm_defined_before_the_layers_still_belongs_to_the_end() -> None:
    anatomy = study(build_on_meta(tiny_config("opt")))
    assert anatomy.place("model.decoder.final_layer_norm.weight")[0] == "end"


def test_a_tensor_of_no_part_is_refused_by_name() -> None:
    anatomy = study(build_on_meta(tiny_config("llama")))
    with pytest.raises(UnsupportedModel, match=r"vision\.weight"):
        anatomy.place("vision.weight")


def test_a_model_whose_layers_take_token_embeddings_is_refused_with_the_reason() -> None:
    config = Gemma3nTextConfig(vocab_size=64, hidden_size=32, num_hidden_layers=4, vocab_size_per_layer_input=64)
    with pytest.raises(UnsupportedModel, match="its own embedding of the token ids"):
        study(build_on_meta(config))


def test_an_encoder_is_refused_because_no_layer_list_was_found() -> None:
    with pytest.raises(UnsupportedModel, match="bert"):
        study(build_on_meta(BertConfig(vocab_size=64, hidden_size=32, num_attention_heads=2, is_decoder=True)))


def test_an_unknown_model_type_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="'newest'"):
        config_from_dict({"model_type": "newest"})
