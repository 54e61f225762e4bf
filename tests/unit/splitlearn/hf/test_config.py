import math

import pytest
from transformers import CONFIG_MAPPING

from splitlearn.hf.config import decode_special_floats, has_causal_model, reuses_keys_and_values
from support.tiny_models import tiny_config


def test_configs_say_whether_there_is_a_causal_model_for_them() -> None:
    assert has_causal_model(tiny_config("llama"))
    assert not has_causal_model(CONFIG_MAPPING["vit"]())


def test_infinity_comes_back_as_a_number(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import json

    config = tiny_config("llama")
    config.limit = float("inf")
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert isinstance(stored["limit"], dict)
    values = decode_special_floats(stored)
    assert values["limit"] == math.inf
    assert values["hidden_size"] == config.hidden_size


@pytest.mark.parametrize("last_ones", [0, 2])
def test_layers_that_attend_to_keys_and_values_of_earlier_ones_are_seen(last_ones: int) -> None:
    config = CONFIG_MAPPING["gemma4_text"](num_hidden_layers=12, num_kv_shared_layers=last_ones)
    assert reuses_keys_and_values(config) == bool(last_ones)
    assert not reuses_keys_and_values(tiny_config("llama"))
