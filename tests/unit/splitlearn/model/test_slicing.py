import pytest
from transformers import CONFIG_MAPPING

from architectures.small_configs import small_config
from splitlearn.errors import UnsupportedModel
from splitlearn.model.slicing import slice_config
from support.tiny_models import tiny_config


def test_lists_with_an_item_for_each_layer_are_cut() -> None:
    config = tiny_config("gemma2")
    kinds = list(config.layer_types)
    slice_config(config, 5, range(1, 3))
    assert config.layer_types == kinds[1:3]
    assert config.num_hidden_layers == 2


def test_a_list_that_only_happens_to_be_as_long_stays_whole() -> None:
    config = tiny_config("gemma2", eos_token_id=[2, 3, 4, 5, 6])
    slice_config(config, 5, range(1, 3))
    assert config.eos_token_id == [2, 3, 4, 5, 6]


def test_numbers_of_layers_are_counted_from_the_parts_first() -> None:
    config = small_config("bamba")  # attention at layers 1 and 3
    slice_config(config, 6, range(3, 6))
    assert config.attn_layer_indices == [0]
    assert list(config.layer_types) == ["full_attention", "linear_attention", "linear_attention"]


def test_a_rhythm_of_layers_keeps_its_beat() -> None:
    config = small_config("jamba")  # attention at every eighth layer from the fourth on
    slice_config(config, 6, range(3, 6))
    assert list(config.layer_types) == ["linear_attention", "full_attention", "linear_attention"]


@pytest.mark.skipif("dots3_note_text" not in CONFIG_MAPPING, reason="this transformers lacks the type")
def test_what_single_layers_override_goes_with_them() -> None:
    config = small_config("dots3_note_text")  # layers 1, 3 and 5 differ
    slice_config(config, 6, range(2, 4))
    assert [own.kv_lora_rank for own in config.per_layer_config] == [24, 16]


def test_kinds_of_layers_that_cannot_be_cut_along_are_refused() -> None:
    config = small_config("jamba")
    with pytest.raises(UnsupportedModel, match="jamba"):
        slice_config(config, 6, range(4, 4 + 9))  # more layers than the model has
