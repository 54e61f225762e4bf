"""Bottom, trunk and top of any causal language model of Hugging Face, each around a `splitlearn.model.part.Part`.

Shapes: B sequences, T rows, D hidden size, V vocabulary.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn
from transformers import Cache, PretrainedConfig

from llm_sepweight import PartSpec, PartStateDict
from splitlearn.checkpoints.load import fill
from splitlearn.checkpoints.quantized import refuse_given
from splitlearn.errors import BadCheckpoint, UnsupportedModel
from splitlearn.model.cache import PartCache
from splitlearn.model.layout import decoder_depth
from splitlearn.model.part import Part, cut
from splitlearn.split_models.base import BaseBottomModel, BaseSplitModel, BaseTopModel, BaseTrunkModel
from splitlearn.torch_private import own_modules, with_modules

_INSIDE = "part.model."


class CausalLMPart(BaseSplitModel):
    """What the three have in common. Names in `state_dict` are those of the whole model, layer numbers included."""

    part: Part

    def _hold(self, part: Part | None, spec: PartSpec) -> None:
        """Takes a filled part, or makes one with the random weights that transformers starts a model with."""
        found = self.config.model_type
        if self.model_type and found != self.model_type:
            raise UnsupportedModel(f"{type(self).__name__} cuts {self.model_type} models, the config is of a {found}")
        if part is None:
            part = cut(copy.deepcopy(self.config), spec)
            part.to_empty(device="cpu")
            part.model.initialize_weights()
            part.train()
        else:
            self.eval()
        self.part = part
        self.register_state_dict_post_hook(_name_as_in_the_whole)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_name_as_in_the_part)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_report_names_of_the_whole)  # type: ignore[no-untyped-call]

    def new_cache(self) -> PartCache:
        """An empty cache for decoding step by step: give it as `past_key_values` to each call of one sequence."""
        return self.part.new_cache()

    def get_transformer_blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.part.model.get_submodule(self.part.layout.layers)
        return blocks

    def prepare_attention_mask(self, attention_mask: torch.Tensor | None, hidden_states: torch.Tensor) -> Any:
        """The mask itself: the model's own forward makes of it what its layers want."""
        return attention_mask

    def get_layer_name_pattern(self) -> str:
        return rf"\.{re.escape(self._layers_name())}\.[0-9]+"

    def load_split_weights(self, full_state_dict: Mapping[str, torch.Tensor]) -> Self:
        self.load_state_dict(_picked(self.part, full_state_dict))
        return self

    def _decoder(self) -> nn.Module:
        decoder: nn.Module = self.part.model.get_submodule(self.part.layout.decoder)
        return decoder

    def _layers_name(self) -> str:
        return self.part.layout.layers.rpartition(".")[2]

    def _norms_without_weights(self) -> list[str]:
        """Names of final norms in the decoder that hold nothing, and so are neither front nor rear."""
        layout = self.part.layout
        norms = [name for name, child in self._decoder().named_children() if "Norm" in type(child).__name__]
        return [
            name for name in norms if f"{layout.decoder}.{name}" not in (*layout.prefix_modules, *layout.suffix_modules)
        ]

    def _run(self, rows_BT: torch.Tensor, **inputs: Any) -> Any:
        given = {name: value for name, value in inputs.items() if value is not None}
        return self.part.run(rows_BT, use_cache="past_key_values" in given, **given)


class CausalLMBottomModel(CausalLMPart, BaseBottomModel):
    """Embeddings and layers 0 up to, not including, `end_layer`."""

    def __init__(self, config: PretrainedConfig, end_layer: int, *, part: Part | None = None) -> None:
        """New random weights, in training mode; or `part`, which is filled already.

        Raises:
            UnsupportedModel, PartSpecError: the architecture cannot be cut, or has no such layers.
        """
        super().__init__(config, end_layer)
        self._hold(part, PartSpec(begin=True, layers=(range(end_layer),), end=False))

    @classmethod
    def from_pretrained_split(
        cls,
        full_state_dict: Mapping[str, torch.Tensor],
        config: PretrainedConfig,
        end_layer: int,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """This part of the whole model whose `state_dict()` is given; see `filled_from`."""
        spec = PartSpec(begin=True, layers=(range(end_layer),), end=False)
        return cls(config, end_layer, part=filled_from(full_state_dict, config, spec, device, dtype))

    def get_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.part.model.get_submodule(self.part.layout.token_embedding)
        return embeddings

    def apply_position_encoding(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """What the model's own forward hands to its first layer; rotary positions come later, inside the layers."""
        silent: dict[str, nn.Module | None] = {name: nn.Identity() for name in self._norms_without_weights()}
        silent[self._layers_name()] = nn.ModuleList()
        decoder = with_modules(self._decoder(), {**own_modules(self._decoder()), **silent})
        output = decoder(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False)
        return torch.as_tensor(output.last_hidden_state)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """Hidden states [B, T, D] of token ids [B, T].

        Args:
            input_ids: whole sequences, or with `past_key_values` what comes after the rows that it holds.
            attention_mask: [B, rows so far], 0 where a row is padding; None if there is none.
            position_ids: [B, T]; None counts from the rows that the cache holds.
            past_key_values: from `new_cache`; grows by T rows.
        """
        hidden_BTD = self._run(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values
        )
        return torch.as_tensor(hidden_BTD)


class CausalLMTrunkModel(CausalLMPart, BaseTrunkModel):
    """Layers `start_layer` up to, not including, `end_layer`."""

    def __init__(self, config: PretrainedConfig, start_layer: int, end_layer: int, *, part: Part | None = None) -> None:
        """New random weights, in training mode; or `part`, which is filled already. Raises as the bottom does."""
        super().__init__(config, start_layer, end_layer)
        self._hold(part, PartSpec(begin=False, layers=(range(start_layer, end_layer),), end=False))

    @classmethod
    def from_pretrained_split(
        cls,
        full_state_dict: Mapping[str, torch.Tensor],
        config: PretrainedConfig,
        start_layer: int,
        end_layer: int,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """This part of the whole model whose `state_dict()` is given; see `filled_from`."""
        spec = PartSpec(begin=False, layers=(range(start_layer, end_layer),), end=False)
        return cls(config, start_layer, end_layer, part=filled_from(full_state_dict, config, spec, device, dtype))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """Hidden states [B, T, D] after this part's layers; the other arguments are the bottom's."""
        hidden_BTD = self._run(
            hidden_states, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values
        )
        return torch.as_tensor(hidden_BTD)


class CausalLMTopModel(CausalLMPart, BaseTopModel):
    """Layers from `start_layer` on, final norm and head."""

    def __init__(self, config: PretrainedConfig, start_layer: int, *, part: Part | None = None) -> None:
        """New random weights, in training mode; or `part`, which is filled already. Raises as the bottom does."""
        super().__init__(config, start_layer)
        self.end_layer = layer_count(config)
        self._hold(part, PartSpec(begin=False, layers=(range(start_layer, self.end_layer),), end=True))

    @classmethod
    def from_pretrained_split(
        cls,
        full_state_dict: Mapping[str, torch.Tensor],
        config: PretrainedConfig,
        start_layer: int,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """This part of the whole model whose `state_dict()` is given; see `filled_from`."""
        spec = PartSpec(begin=False, layers=(range(start_layer, layer_count(config)),), end=True)
        return cls(config, start_layer, part=filled_from(full_state_dict, config, spec, device, dtype))

    def get_final_norm(self) -> nn.Module:
        """The norm after the last layer; one that changes nothing where the architecture has none."""
        rear = [self.part.model.get_submodule(path) for path in self.part.layout.suffix_modules[:-1]]
        found = [*rear, *(self._decoder().get_submodule(name) for name in self._norms_without_weights())]
        return next((module for module in found if "Norm" in type(module).__name__), nn.Identity())

    def get_lm_head(self) -> nn.Module:
        head: nn.Module = self.part.model.get_submodule(self.part.layout.suffix_modules[-1])
        return head

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **options: Any,
    ) -> Any:
        """The output of the whole model's own forward, whose `logits` are [B, T, V].

        The arguments are the bottom's; `options` are further ones of the model's forward, such as `labels` or
        `logits_to_keep`.
        """
        return self._run(
            hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **options,
        )


def layer_count(config: PretrainedConfig) -> int:
    """How many layers the whole model has."""
    return decoder_depth(config)


def filled_from(
    full_state_dict: Mapping[str, torch.Tensor],
    config: PretrainedConfig,
    spec: PartSpec,
    device: str,
    dtype: torch.dtype | None,
) -> Part:
    """The part `spec`, filled from the whole model's `state_dict()`.

    Tensors that fit are used as they are, not copied: they stay shared with `full_state_dict`, and with the other
    parts where they are tied.

    Args:
        full_state_dict: by the names of the whole model in memory; tensors of other parts may be missing.
        config: the whole model's.
        spec: which part.
        device: where the tensors go.
        dtype: what they become; None keeps theirs.

    Raises:
        BadCheckpoint: a tensor is missing or has another shape.
        UnsupportedModel, PartSpecError: the architecture cannot be cut or has no such layers, or the weights are
            quantised.
    """
    own = next((tensor.dtype for tensor in full_state_dict.values() if tensor.is_floating_point()), torch.float32)
    config = copy.deepcopy(config)
    config.dtype = dtype or own  # transformers makes derived buffers in the config's dtype
    part = cut(config, spec)
    tensors = _picked(part, full_state_dict)
    weights = PartStateDict(begin={}, mid={}, end={})
    for key, tensor in tensors.items():
        section, layer, name = part.layout.place(key)
        group = weights.begin if section == "begin" else weights.end
        group = group if layer is None else weights.mid.setdefault(layer, {})
        if group is not None:
            group[name] = tensor
    fill(part, weights, torch.device(device), dtype or own)
    return part


def _picked(part: Part, full: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part's tensors out of the whole model's, by the names that they have there."""
    tied = dict(part.model.all_tied_weights_keys)
    twins = {**tied, **{stored: target for target, stored in tied.items()}}
    wanted = {_shifted(part, name, part.layers.start): t for name, t in part.model.state_dict(keep_vars=True).items()}
    names = {name: key for name in wanted if (key := name if name in full else twins.get(name, name)) in full}
    refuse_given("the state dict", wanted, full, names)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise BadCheckpoint(
            f"the state dict lacks {len(missing)} tensors of this part, the first is {missing[0]}; "
            "give the `state_dict()` of the whole model"
        )
    return {name: full[names[name]] for name in wanted}


def _shifted(part: Part, name: str, by: int) -> str:
    """The name with its layer's number changed; names outside the layers stay."""
    prefix = f"{part.layout.layers}."
    number, dot, rest = name.removeprefix(prefix).partition(".")
    return f"{prefix}{int(number) + by}{dot}{rest}" if name.startswith(prefix) and number.isdecimal() else name


def _name_as_in_the_whole(module: CausalLMPart, state_dict: dict[str, Any], prefix: str, _: object) -> None:
    inside = f"{prefix}{_INSIDE}"
    for key in [key for key in state_dict if key.startswith(inside)]:
        name = _shifted(module.part, key.removeprefix(inside), module.part.layers.start)
        state_dict[f"{prefix}{name}"] = state_dict.pop(key)


def _name_as_in_the_part(module: CausalLMPart, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    own = set(module.part.model.state_dict(keep_vars=True))
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = _shifted(module.part, key.removeprefix(prefix), -module.part.layers.start)
        if name in own:
            state_dict[f"{prefix}{_INSIDE}{name}"] = state_dict.pop(key)


def _report_names_of_the_whole(module: CausalLMPart, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [
        _shifted(module.part, key.removeprefix(_INSIDE), module.part.layers.start) if key.startswith(_INSIDE) else key
        for key in missing
    ]
