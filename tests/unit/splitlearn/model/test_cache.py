import pytest
import torch

from architectures.small_configs import small_config
from llm_sepweight import PartSpec
from splitlearn.errors import UnsupportedModel
from splitlearn.model.cache import PartCache, cache_layer_specs
from splitlearn.model.layout import build_on_meta
from splitlearn.model.part import cut
from support.tiny_models import tiny_config


def rows(n: int) -> torch.Tensor:
    return torch.randn(1, 2, n, 16, generator=torch.Generator().manual_seed(n))


def test_a_window_keeps_all_rows_so_that_any_can_be_taken_back() -> None:
    cache = PartCache(cache_layer_specs(tiny_config("gemma2", sliding_window=4)))
    keys = rows(9)
    for layer in range(len(cache)):
        cache.update(keys, keys, layer)
    cache.truncate(6)
    assert [layer.get_seq_length() for layer in cache.layers] == [6] * len(cache)
    assert torch.equal(cache.layers[0].keys, keys[:, :, :6])


def test_entries_that_hold_fewer_rows_stay_as_they_are() -> None:
    cache = PartCache(cache_layer_specs(tiny_config("llama")))
    cache.update(rows(5), rows(5), 0)
    cache.update(rows(3), rows(3), 1)
    cache.truncate(4)
    assert [layer.get_seq_length() for layer in cache.layers[:2]] == [4, 3]


def test_a_part_of_only_recurrent_layers_counts_rows_as_it_is_told() -> None:
    cache = cut(small_config("qwen3_next"), PartSpec.parse("0-2")).new_cache()
    cache.n_rows = 7
    assert cache.get_seq_length() == 7
    assert cache.get_mask_sizes(3, 0) == (10, 0)


@pytest.mark.parametrize(
    ("model_type", "layers", "expected"),
    [
        ("llama", "1-3", True),
        ("gemma2", "1-3", True),
        ("qwen3_next", "0-2", False),
        ("qwen3_next", "3-4", True),  # the one layer with full attention
        ("lfm2", "0-2", False),
        ("deepseek_v4", "2-4", False),
        ("mamba", "1-3", False),
    ],
)
def test_a_part_knows_whether_its_sessions_can_go_back(model_type: str, layers: str, expected: bool) -> None:
    assert cut(small_config(model_type), PartSpec.parse(layers)).can_truncate is expected


def test_a_kind_of_layer_without_a_cache_is_refused_by_name() -> None:
    config = small_config("llama")
    build_on_meta(config)
    config.layer_types = ["full_attention"] * 5 + ["telepathy"]
    with pytest.raises(UnsupportedModel, match="telepathy"):
        cache_layer_specs(config)
