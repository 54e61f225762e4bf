"""Configs, beyond what transformers says of them."""

from typing import Any

from transformers import AutoModelForCausalLM, PretrainedConfig


def has_causal_model(config: PretrainedConfig) -> bool:
    """Whether transformers has a causal language model for configs of this class.

    `AutoModelForCausalLM.from_config` would go on to ask for the folder's own code.
    """
    return type(config) in AutoModelForCausalLM._model_mapping


def decode_special_floats(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a config.json, which spells infinity as an object."""
    return dict(PretrainedConfig._decode_special_floats(values))


def reuses_keys_and_values(config: PretrainedConfig) -> bool:
    """Whether layers of the decoder attend to the keys and values of earlier ones.

    Configs of transformers 5.20 only count those layers; later ones say it of each layer.
    """
    text = config.get_text_config(decoder=True)
    modes = getattr(text, "kv_sharing_modes", None) or ()
    return "reuse" in modes or bool(getattr(text, "num_kv_shared_layers", 0))
