"""Deciders for `llm_sepweight.dump` and the conversions, read off the model instead of typed by hand."""

from collections.abc import Callable
from pathlib import Path

from transformers import PretrainedConfig

from splitlearn.checkpoints.folder import find_checkpoint, read_config
from splitlearn.hf.conversion import Conversions
from splitlearn.model.layout import build_on_meta, config_from_dict, inspect_model


def decider_for(model: PretrainedConfig | str | Path) -> Callable[[str], list[str]]:
    """The decider of one model, for the names of its `state_dict()` and for those of its checkpoint's files.

    It answers ["start", name], ["mid", layer, name] or ["end", name], where name is what is left of the key
    without the decoder's and the layer's prefix, and raises UnsupportedModel for a key that belongs to no part.

    Args:
        model: the config, a local folder, or the id of a model on the hub.

    Raises:
        UnsupportedModel: the architecture cannot be cut.
        BadCheckpoint: no such folder or model, or no config.json in it.
    """
    config = model if isinstance(model, PretrainedConfig) else _config(str(model))
    whole = build_on_meta(config)
    layout = inspect_model(whole)
    conversions = Conversions(whole)
    wanted = whole.state_dict(keep_vars=True)

    def decide(key: str) -> list[str]:
        name = key if key in wanted else conversions.name(key)
        section, layer, rest = layout.place(name)
        if layer is not None:
            return [section, str(layer), rest]
        return ["start" if section == "begin" else section, rest]

    return decide


def _config(model: str) -> PretrainedConfig:
    return config_from_dict(read_config(find_checkpoint(model)))
