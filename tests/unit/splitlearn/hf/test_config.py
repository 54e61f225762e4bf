import math

from transformers import CONFIG_MAPPING

from splitlearn.hf.config import decode_special_floats, has_causal_model
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
