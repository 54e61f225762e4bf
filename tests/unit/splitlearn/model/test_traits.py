import pytest
from transformers import DeepseekV4Config, Gemma4TextConfig, LlamaConfig, PretrainedConfig

from architectures.small_configs import small_config
from llm_sepweight import PartSpec
from splitlearn.errors import BadPlan
from splitlearn.model.part import cut
from splitlearn.model.traits import row_width, takes_one_row_at_a_time, why_not, why_not_here


def gemma4(**changes: int) -> PretrainedConfig:
    return Gemma4TextConfig(**{"num_hidden_layers": 12, "hidden_size_per_layer_input": 0, **changes})


def test_a_gemma_without_embeddings_in_its_layers_can_be_cut() -> None:
    assert why_not(gemma4()) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (gemma4(hidden_size_per_layer_input=8), "embeddings of the token ids"),
        (gemma4(num_kv_shared_layers=2), "keys and values of earlier ones"),
        (small_config("zamba2"), "the output of the embedding again"),
        (small_config("rwkv"), "in a form of its own"),
    ],
)
def test_what_layers_would_miss_in_another_part_is_named(config: PretrainedConfig, words: str) -> None:
    assert words in str(why_not(config))


def test_layers_that_choose_experts_by_token_id_stay_with_the_embeddings() -> None:
    config = small_config("deepseek_v4")
    assert why_not_here(config, range(0, 2)) is None
    assert why_not_here(config, range(2, 6)) is None
    with pytest.raises(BadPlan, match="cut at 2 or behind"):
        cut(config, PartSpec.parse("1-4"))


def test_a_part_does_not_begin_at_a_layer_that_attends_where_an_earlier_one_chose() -> None:
    with pytest.raises(BadPlan, match=r"begin a part at one of the layers \[0, 2, 4\]"):
        cut(small_config("hy_v4"), PartSpec.parse("3-5"))


def test_a_row_is_as_many_times_as_wide_as_there_are_streams() -> None:
    assert row_width(DeepseekV4Config(hidden_size=64, hc_mult=4)) == 256
    assert row_width(LlamaConfig(hidden_size=64)) == 64


def test_recurrent_layers_that_forget_take_one_row_at_a_time() -> None:
    assert takes_one_row_at_a_time(small_config("mamba"))
    assert not takes_one_row_at_a_time(small_config("mamba2"))
