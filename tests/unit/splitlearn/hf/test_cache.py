from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, Cache, DynamicCache

from splitlearn.hf.cache import (
    CACHE_NAME,
    CACHE_NAMES,
    cache_argument,
    cache_in,
    can_crop,
    counts_rows,
    entry_classes,
    fill_cache,
    keeps_plain_kv,
    layer_types,
    named_cache,
)
from splitlearn.model.layout import build_on_meta
from support.tiny_models import random_model, tiny_config

HYBRID = CONFIG_MAPPING["qwen3_next"](num_hidden_layers=4)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mamba", "mamba2", "bloom"])
def test_every_decoder_says_what_it_calls_its_cache(model_type: str) -> None:
    model = build_on_meta(CONFIG_MAPPING[model_type](num_hidden_layers=1))
    assert cache_argument(model.base_model.forward) in CACHE_NAMES


def test_a_forward_without_a_cache_has_no_name_for_it() -> None:
    assert cache_argument(torch.nn.Linear(1, 1).forward) is None


def test_models_and_layers_of_this_transformers_take_the_cache_under_the_name_that_is_told() -> None:
    model, ids, seen = random_model(tiny_config("llama")), torch.arange(3)[None], []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, __, kwargs: seen.append(cache_in(kwargs)), with_kwargs=True)
    cache = DynamicCache(config=model.config)
    model(ids, **named_cache(cache))
    assert cache.get_seq_length() == 3
    assert all(each is cache for each in seen)
    assert len(seen) == len(model.model.layers)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_is_found_under_its_name_of_today_and_of_before(name: str) -> None:
    cache = DynamicCache()
    assert cache_in({name: cache, "use_cache": True}) is cache
    assert cache_in({"use_cache": True}) is None
    assert CACHE_NAME in CACHE_NAMES


def test_layers_with_a_window_get_the_entry_of_those_without() -> None:
    config = tiny_config("gemma2")
    assert "sliding_attention" in layer_types(config)
    assert all(keeps_plain_kv(entry) and can_crop(entry) for entry, _ in entry_classes(config))


def test_a_recurrent_layer_counts_no_rows_and_gives_none_back() -> None:
    kinds = dict(zip(layer_types(HYBRID), entry_classes(HYBRID), strict=True))
    recurrent, _ = kinds["linear_attention"]
    attending, _ = kinds["full_attention"]
    assert (counts_rows(recurrent), can_crop(recurrent), keeps_plain_kv(recurrent)) == (False, False, False)
    assert (counts_rows(attending), can_crop(attending), keeps_plain_kv(attending)) == (True, True, True)


def test_a_layer_of_a_type_without_an_entry_is_named() -> None:
    config = tiny_config("llama")
    vars(config)["layer_types"] = ["full_attention", "telepathy", "full_attention", "full_attention", "full_attention"]
    with pytest.raises(LookupError, match="telepathy"):
        entry_classes(config)


def test_a_cache_has_the_entries_that_it_is_given() -> None:
    class Own(DynamicCache):  # type: ignore[misc]
        def __init__(self, entries: list[Any]) -> None:
            fill_cache(self, entries)

    entries = [entry(**options) for entry, options in entry_classes(HYBRID)[:2]]
    cache = Own(entries)
    assert isinstance(cache, Cache)
    assert cache.layers == entries
