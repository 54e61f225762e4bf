"""Where a Hugging Face causal language model keeps its embeddings, layers, final norm and head.

Read off the model itself, built on the meta device, so that no architecture is described by hand: the
decoder's one list of layers divides its children into a front (embeddings, positions) and a rear (norm).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from splitlearn.errors import UnsupportedModel

# Decoders that define a child on the other side of the layer list than where they run it.
_RUNS_AFTER_THE_LAYERS = {"opt": ("project_out", "final_layer_norm")}

_PER_LAYER_INPUTS = "every layer takes its own embedding of the token ids, which must not leave the client"
_CANNOT_BE_CUT = {
    "gemma3n_text": _PER_LAYER_INPUTS,
    "gemma3n": _PER_LAYER_INPUTS,
    "gemma4_text": _PER_LAYER_INPUTS,
    "gemma4": _PER_LAYER_INPUTS,
}


@dataclass(frozen=True)
class Anatomy:
    """Dotted module paths inside the whole model.

    `front` runs before the layers and belongs to the begin file, `rear` (final norm, head) runs after them
    and belongs to the end file. Modules that hold nothing (rotary tables) are in neither: every part has them.
    """

    decoder: str
    layers: str
    n_layers: int
    token_embedding: str
    front: tuple[str, ...]
    rear: tuple[str, ...]

    def place(self, key: str) -> tuple[str, int | None, str]:
        """(section, layer, name inside the section's file) of a tensor of the whole model's state dict.

        Sections are "begin", "mid" and "end"; the layer is None outside "mid".

        Raises:
            UnsupportedModel: the tensor belongs to neither front, layers nor rear.
        """
        if key.startswith(f"{self.layers}."):
            index, name = key.removeprefix(f"{self.layers}.").split(".", 1)
            return "mid", int(index), name
        for section, paths in (("begin", self.front), ("end", self.rear)):
            if any(key.startswith(f"{path}.") for path in paths):
                return section, None, key.removeprefix(f"{self.decoder}.")
        raise UnsupportedModel(
            f"the tensor {key} belongs neither to a layer nor to the modules before and after the layers, "
            "so no part could own it"
        )


def build_on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """The whole causal model without memory for its weights.

    Raises:
        UnsupportedModel: transformers has no causal language model for this config, or it is known that
            it cannot be cut.
    """
    if config.model_type in _CANNOT_BE_CUT:
        raise UnsupportedModel(f"{config.model_type} cannot be cut: {_CANNOT_BE_CUT[config.model_type]}")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise UnsupportedModel(f"{config.model_type}: not a causal language model of transformers") from error
    except (ImportError, TypeError) as error:
        # without an optional package transformers leaves None where a class should be
        raise UnsupportedModel(
            f"transformers cannot build {config.model_type} here, probably for want of a package: {error}"
        ) from error
    return model.eval()


def config_from_dict(values: dict[str, object]) -> PretrainedConfig:
    """The config class of `values["model_type"]`, filled.

    Raises:
        UnsupportedModel: the model type is missing or unknown to this version of transformers.
    """
    fields = dict(values)
    model_type = fields.pop("model_type", None)
    try:
        return AutoConfig.for_model(str(model_type), **fields)
    except ValueError as error:
        raise UnsupportedModel(f"model type {model_type!r} is unknown to this version of transformers") from error


def study(model: PreTrainedModel) -> Anatomy:
    """Finds the parts of a whole model (usually on the meta device).

    Raises:
        UnsupportedModel: no decoder with exactly one list of `num_hidden_layers` layers was found.
    """
    kind = model.config.model_type
    n_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    paths = {id(module): name for name, module in model.named_modules()}
    decoder = model.get_decoder()
    if decoder is None or decoder is model or id(decoder) not in paths:
        raise UnsupportedModel(f"{kind}: transformers does not say which module is the decoder")
    children = list(decoder.named_children())
    lists = [i for i, (_, child) in enumerate(children) if _is_layer_list(child, n_layers)]
    if len(lists) != 1:
        raise UnsupportedModel(f"{kind}: expected one list of {n_layers} layers in the decoder, found {len(lists)}")
    prefix = paths[id(decoder)]
    late = _RUNS_AFTER_THE_LAYERS.get(kind, ())
    held = [
        (len(children) if name in late else i, f"{prefix}.{name}")
        for i, (name, child) in enumerate(children)
        if _holds_weights(child)
    ]
    embedding = paths.get(id(model.get_input_embeddings()))
    head = paths.get(id(model.get_output_embeddings()))
    if embedding is None or head is None:
        raise UnsupportedModel(f"{kind}: transformers does not say where its token embedding or head is")
    return Anatomy(
        decoder=prefix,
        layers=f"{prefix}.{children[lists[0]][0]}",
        n_layers=n_layers,
        token_embedding=embedding,
        front=tuple(path for i, path in held if i < lists[0]),
        rear=(*(path for i, path in held if i > lists[0]), head),
    )


def _is_layer_list(module: nn.Module, n_layers: int) -> bool:
    return isinstance(module, nn.ModuleList) and len(module) == n_layers


def _holds_weights(module: nn.Module) -> bool:
    return bool(module.state_dict(keep_vars=True))
