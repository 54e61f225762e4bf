"""The config of a part: the whole model's, with what it says of layers cut down to the part's own.

The forward of a model looks up its layers' kinds in the config by their place, which a cut changes.
"""

import re
from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from splitlearn.errors import UnsupportedModel

# Fields with one item for each layer, and fields with the numbers of some layers. Other lists may happen to be as
# long as the model has layers, such as the ids of end tokens.
_PER_LAYER = re.compile(r"layer|_types$|_pattern$")
_LAYER_NUMBERS = re.compile(r"_layers$|layer_(indices|ids)$|_idxs$")


def slice_config(config: PretrainedConfig, n_layers: int, layers: range, each: int = 1) -> None:
    """Changes the config of a model of `n_layers` layers into that of a part.

    Args:
        config: changed in place.
        n_layers: of the whole model.
        layers: the part's.
        each: entries that one layer has in the cache.

    Raises:
        UnsupportedModel: the kinds of layers that the config then tells are not those of the part's layers.
    """
    kinds = getattr(config, "layer_types", None)
    own = {int(i): values for i, values in (config.to_dict().get("per_layer_config") or {}).items()}
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and _LAYER_NUMBERS.search(name) and _rises(value):
            setattr(config, name, [i - layers.start for i in value if i in layers])
        elif isinstance(value, list | tuple) and _PER_LAYER.search(name) and len(value) == n_layers:
            setattr(config, name, value[layers.start : layers.stop])
        elif name.endswith("_layer_offset"):
            setattr(config, name, (value - layers.start) % getattr(config, name.replace("offset", "period")))
    if own:
        config.per_layer_config = None
    config.num_hidden_layers = len(layers) * each
    if "num_layers" in vars(config):
        config.num_layers = len(layers)
    if own:
        config.per_layer_config = {i - layers.start: values for i, values in own.items() if i in layers}
    if kinds is not None and list(config.layer_types) != list(kinds[layers.start * each : layers.stop * each]):
        raise UnsupportedModel(f"{config.model_type}: its config does not say how to tell the kinds of a part's layers")


def _rises(value: Sequence[Any]) -> bool:
    return all(type(item) is int for item in value) and list(value) == sorted(set(value))
