"""Where a Hugging Face causal language model keeps its embeddings, layers, final norm and head.

Read off the model itself, built on the meta device, so that no architecture is described by hand: the
decoder's one list of layers divides its children into a prefix (embeddings, positions) and a suffix (norm).
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from splitlearn.errors import UnsupportedModel
from splitlearn.hf.cache import cache_argument
from splitlearn.hf.config import decode_special_floats, has_causal_model
from splitlearn.hf.init import NoRandomNumbers, kept_in_fp32
from splitlearn.model.architectures import is_known
from splitlearn.model.traits import why_not

# Children that their authors define on the other side of the layer list than where they run them.
_RUNS_BEFORE_THE_LAYERS = ("layernorm_embedding",)
_NAMED_MISLEADINGLY = ("bigbird_pegasus",)
_RUNS_AFTER_THE_LAYERS = ("project_out", "final_layer_norm")
_NOT_FOR_TEXT = ("embed_tokens_extend",)
_MOST_LAYERS = 4096
# What transformers raises where it computes with a config's values before it has looked at them.
_BAD_VALUES = (ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError)


@dataclass(frozen=True)
class ModelLayout:
    """Dotted module paths inside the whole model.

    `prefix_modules` run before the layers and belong to the begin file, `suffix_modules` (final norm, head) run after
    them and belong to the end file; the last one is the head. Modules that hold nothing (rotary tables) are in neither:
    every part has them. `unused` are towers for images and sound, which text does not pass through.
    """

    decoder: str
    layers: str
    n_layers: int
    token_embedding: str
    prefix_modules: tuple[str, ...]
    suffix_modules: tuple[str, ...]
    unused: tuple[str, ...] = ()

    def place(self, key: str) -> tuple[str, int | None, str]:
        """(section, layer, name inside the section's file) of a tensor of the whole model's state dict.

        Sections are "begin", "mid" and "end"; the layer is None outside "mid".

        Raises:
            UnsupportedModel: the tensor belongs to neither prefix_modules, layers nor suffix_modules.
        """
        if key.startswith(f"{self.layers}."):
            index, name = key.removeprefix(f"{self.layers}.").split(".", 1)
            return "mid", int(index), name
        for section, paths in (("begin", self.prefix_modules), ("end", self.suffix_modules)):
            if any(key.startswith(f"{path}.") for path in paths):
                return section, None, key.removeprefix(f"{self.decoder}.")
        raise UnsupportedModel(
            f"the tensor {key} belongs neither to a layer nor to the modules before and after the layers, "
            "so no part could own it"
        )


def build_on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """The whole causal model without memory for its weights.

    Raises:
        UnsupportedModel: transformers has no causal language model for this config, it is known that it cannot be
            cut, or the config has values that no model can be built of.
    """
    reason = why_not(config)
    if reason is not None:
        raise UnsupportedModel(f"{config.model_type} cannot be cut: {reason}")
    if not has_causal_model(config):
        raise UnsupportedModel(f"{config.model_type}: not a causal language model of transformers")
    n_layers = decoder_depth(config)
    if n_layers > _MOST_LAYERS:
        raise UnsupportedModel(
            f"a {config.model_type} of {n_layers} layers cannot be; at most {_MOST_LAYERS} are built"
        )
    try:
        with torch.device("meta"), NoRandomNumbers():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ImportError, TypeError) as error:
        # without an optional package transformers leaves None where a class should be
        raise UnsupportedModel(
            f"transformers cannot build {config.model_type} here, for want of a package or because of what its config "
            f"says: {error}"
        ) from error
    except _BAD_VALUES as error:
        raise UnsupportedModel(_bad_values(config.model_type, error)) from error
    _agree_on_depth(model.config)
    return model.eval()


def _bad_values(model_type: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the config of this {model_type} has values that cannot be: {reason}"


def config_from_dict(values: dict[str, object]) -> PretrainedConfig:
    """The config class of `values["model_type"]`, filled.

    Raises:
        UnsupportedModel: the model type is missing, or unknown to this version of transformers and to the packages
            that bring others, or its config refuses the values.
    """
    fields = dict(values)
    model_type = fields.pop("model_type", None)
    if not isinstance(model_type, str):
        raise UnsupportedModel(f"config.json names no model type: its model_type is {model_type!r}")
    fields = decode_special_floats(fields)
    if not is_known(model_type):
        own_code = "; the folder's own code for it (auto_map) is not run" if fields.get("auto_map") else ""
        raise UnsupportedModel(f"model type {model_type!r} is unknown to this version of transformers{own_code}")
    try:
        config = AutoConfig.for_model(model_type, **fields)
        text = config.get_text_config(decoder=True)
    except (StrictDataclassError, TypeError, *_BAD_VALUES) as error:
        raise UnsupportedModel(_bad_values(model_type, error)) from error
    if not isinstance(text, PretrainedConfig):
        raise UnsupportedModel(f"a {model_type} has no text config in its config, found {type(text).__name__}")
    return config


def decoder_depth(config: PretrainedConfig) -> int:
    """How many layers the decoder has. What an encoder beside it has may be told under the more general name."""
    own = vars(config)
    if "decoder_layers" in own and not getattr(config, "text_config", None):
        return int(own["decoder_layers"])
    text = config.get_text_config(decoder=True)
    return int(getattr(text, "num_layers", None) or getattr(text, "num_hidden_layers", None) or 0)


def _agree_on_depth(config: PretrainedConfig) -> None:
    """Lets the general name tell the depth of the decoder, which a causal model has alone, and not of the encoder."""
    text = config.get_text_config(decoder=True)
    if getattr(text, "decoder_layers", None) and text.num_hidden_layers != text.decoder_layers:
        text.num_hidden_layers = text.decoder_layers


def inspect_model(model: PreTrainedModel) -> ModelLayout:
    """Finds the parts of a whole model (usually on the meta device).

    Raises:
        UnsupportedModel: no decoder with exactly one list of `num_hidden_layers` layers was found.
    """
    kind = model.config.model_type
    modules = dict(model.named_modules())
    paths = {id(module): name for name, module in modules.items()}
    decoder = paths.get(id(_decoder(model)), "")
    if not decoder:
        raise UnsupportedModel(f"{kind}: transformers does not say which module is the decoder")
    forward = model.get_submodule(decoder).forward
    if "inputs_embeds" not in inspect.signature(forward).parameters or cache_argument(forward) is None:
        raise UnsupportedModel(f"{kind}: its decoder takes no hidden states, or no cache that a part could hold")
    layers, n_layers = _layer_list(model.config, modules, decoder)
    embedding = paths.get(id(model.get_input_embeddings()))
    head = paths.get(id(model.get_output_embeddings()))
    if embedding is None or head is None:
        raise UnsupportedModel(f"{kind}: transformers does not say where its token embedding or head is")
    prefix_modules: list[str] = []
    suffix_modules: list[str] = []
    unused: list[str] = []
    for path, is_behind in _beside(model, layers):
        if _beyond(path, decoder) or path.rpartition(".")[2] in _NOT_FOR_TEXT:
            unused.append(path)
        elif path != head:
            (suffix_modules if is_behind or head.startswith(f"{path}.") else prefix_modules).append(path)
    return ModelLayout(
        decoder, layers, n_layers, embedding, tuple(prefix_modules), (*suffix_modules, head), tuple(unused)
    )


def _decoder(model: PreTrainedModel) -> nn.Module | None:
    # some models call their head "decoder", and some that are half of a larger one do not know their own decoder
    named = (model.get_decoder(), model.base_model, getattr(model, "model", None))
    return next((module for module in named if isinstance(module, PreTrainedModel) and module is not model), None)


def _layer_list(config: PretrainedConfig, modules: Mapping[str, nn.Module], decoder: str) -> tuple[str, int]:
    """Path and length of the decoder's list of layers: the one of the right length that lies least deep."""
    kind, n_layers = config.model_type, decoder_depth(config)
    found = [
        path
        for path, module in modules.items()
        if path.startswith(f"{decoder}.") and isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    least = min((path.count(".") for path in found), default=0)
    found = [path for path in found if path.count(".") == least]
    if len(found) != 1:
        raise UnsupportedModel(f"{kind}: expected one list of {n_layers} layers in the decoder, found {len(found)}")
    return found[0], n_layers


def _beside(model: PreTrainedModel, layers: str) -> Iterator[tuple[str, bool]]:
    """All modules that hold weights beside the layers and the modules around them: their paths, and whether they
    run behind the layers."""
    names = layers.split(".")
    for depth, inner in enumerate(names):
        outer = names[:depth]
        children = list(model.get_submodule(".".join(outer)).named_children())
        here = [name for name, _ in children].index(inner)
        for i, (name, child) in enumerate(children):
            if i != here and child.state_dict(keep_vars=True):
                is_behind = i > here
                if model.config.model_type not in _NAMED_MISLEADINGLY:
                    is_behind = (is_behind or name in _RUNS_AFTER_THE_LAYERS) and name not in _RUNS_BEFORE_THE_LAYERS
                yield ".".join((*outer, name)), is_behind


def _beyond(path: str, decoder: str) -> bool:
    """Whether the module lies beside the decoder inside a model around it, as towers for images and sound do."""
    parent = path.rpartition(".")[0]
    return bool(parent) and decoder.startswith(f"{parent}.")


def leave_out(model: PreTrainedModel, unused: Iterable[str]) -> None:
    """Takes modules that text does not pass through out of the model."""
    for path in unused:
        model.set_submodule(path, _PassThrough())


class _PassThrough(nn.Module):
    """Stands in for a module that only images or sound would change anything in: gives back what it got last."""

    def forward(self, *given: Any, **_: object) -> Any:
        return given[-1]


def storage_dtype(model: PreTrainedModel, key: str, stored: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """The dtype of one tensor of `model` when the model runs in `wanted`.

    Integers stay what they are, and so do the few tensors (routing biases and their kin) that transformers keeps
    in fp32 because a half-precision copy changes which experts are chosen.
    """
    if not stored.is_floating_point:
        return stored
    kept = kept_in_fp32(model, wanted)
    return torch.float32 if any(re.search(rf"(^|\.){re.escape(name)}(\.|$)", key) for name in kept) else wanted
