"""What bottom, trunk and top models have in common, for every architecture.

A new architecture that Hugging Face does not have derives its three models from BaseBottomModel, BaseTrunkModel
and BaseTopModel, says where its modules are, and gets the forward, the picking of its weights out of a whole
model's, and saving from here. Architectures that Hugging Face has need none of this: see `splitlearn.split_models`.

Shapes: B sequences, T rows, D hidden size, V vocabulary.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from splitlearn.checkpoints.quantized import refuse_given
from splitlearn.errors import BadCheckpoint
from splitlearn.hf.outputs import CausalLMOutputWithPast, causal_output
from splitlearn.split_models.saving import FORMAT_VERSION, SavedPart, write_metadata, write_weights


class BaseSplitModel(nn.Module, ABC):
    """Layers `start_layer` up to, not including, `end_layer` of the model that `config` describes.

    `end_layer` is None where the config does not tell how many layers there are.
    """

    part_name: ClassVar[str]
    model_type: ClassVar[str] = ""
    """What the class is registered for; set by `ModelRegistry.register`."""

    def __init__(self, config: Any, start_layer: int, end_layer: int | None) -> None:
        super().__init__()
        self.config = config
        self.start_layer = start_layer
        self.end_layer = end_layer

    @abstractmethod
    def get_transformer_blocks(self) -> Iterable[nn.Module]:
        """This part's layers, in order."""

    @abstractmethod
    def prepare_attention_mask(self, attention_mask: torch.Tensor | None, hidden_states: torch.Tensor) -> Any:
        """What each layer gets as its mask, made from the caller's [B, T] mask (None: every row counts)."""

    @abstractmethod
    def get_layer_name_pattern(self) -> str:
        """A regular expression for the place of a layer in the whole model's tensor names; it ends with the number."""

    @property
    def num_parameters(self) -> int:
        """How many numbers this part's parameters hold."""
        return sum(parameter.numel() for parameter in self.parameters())

    def run_block(
        self, block: nn.Module, hidden_BTD: torch.Tensor, attention_mask: Any, position_ids: torch.Tensor
    ) -> torch.Tensor:
        """Runs one layer; override it for layers that are called otherwise, for example with position_ids."""
        output = block(hidden_BTD, attention_mask=attention_mask)
        return torch.as_tensor(output[0] if isinstance(output, tuple) else output)

    def run_blocks(
        self, hidden_BTD: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Runs this part's layers, one after the other."""
        mask = self.prepare_attention_mask(attention_mask, hidden_BTD)
        position_ids = _positions(hidden_BTD, position_ids)
        for block in self.get_transformer_blocks():
            hidden_BTD = self.run_block(block, hidden_BTD, mask, position_ids)
        return hidden_BTD

    def load_split_weights(self, full_state_dict: Mapping[str, torch.Tensor]) -> Self:
        """Copies this part's tensors out of the whole model's, and returns this part.

        A layer is told by `get_layer_name_pattern`, and its number is that of the whole model; other tensors are
        told by their names. Names may have a prefix in the whole model that they do not have here.

        Raises:
            BadCheckpoint: a tensor is missing, could be one of several, or has another shape.
            UnsupportedModel: the tensors are quantised.
        """
        renamed = _Renamed(full_state_dict, self.get_layer_name_pattern(), self.start_layer)
        own = self.state_dict()
        keys = {name: key for name in own if (key := renamed.key(name)) is not None}
        refuse_given("the state dict", own, full_state_dict, keys)
        lacking = next((name for name in own if name not in keys), None)
        if lacking is not None:
            raise BadCheckpoint(f"the state dict has no tensor for {renamed.where(lacking)}; give the whole model's")
        weights = {name: full_state_dict[key] for name, key in keys.items()}
        for name, tensor in weights.items():
            if tensor.shape != own[name].shape:
                raise BadCheckpoint(
                    f"{name} should have the shape {list(own[name].shape)}, found {list(tensor.shape)}; "
                    "config and weights are of different models"
                )
        self.load_state_dict(weights)
        return self

    def save_split_model(self, path: Path | str) -> None:
        """Writes the weights to `path` (.pt or .safetensors) and `<stem>_metadata.json` beside it.

        Folders that are missing are made. The metadata come last: their presence means that the weights are whole.

        Raises:
            BadCheckpoint: a suffix that stands for no format.
        """
        weights = Path(path)
        tensors = self.state_dict()
        write_weights(weights, tensors)
        dtypes = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()}
        write_metadata(
            weights,
            SavedPart(
                format_version=FORMAT_VERSION,
                model_type=self.model_type,
                part=self.part_name,
                start_layer=self.start_layer,
                end_layer=self.end_layer,
                dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
                parameters=self.num_parameters,
                config=self.config.to_dict() if hasattr(self.config, "to_dict") else dict(vars(self.config)),
            ),
        )


class BaseBottomModel(BaseSplitModel):
    """Token ids [B, T] in, hidden states [B, T, D] out: embeddings and layers 0 up to, not including, `end_layer`."""

    part_name = "bottom"

    def __init__(self, config: Any, end_layer: int) -> None:
        super().__init__(config, 0, end_layer)

    @abstractmethod
    def get_embeddings(self) -> nn.Module:
        """The module that turns token ids [B, T] into rows [B, T, D]."""

    @abstractmethod
    def apply_position_encoding(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """What enters the first layer: rows [B, T, D] and, where the architecture adds them, their positions."""

    @classmethod
    @abstractmethod
    def from_pretrained_split(cls, full_state_dict: Mapping[str, torch.Tensor], config: Any, end_layer: int) -> Self:
        """This part with its weights taken out of the whole model's; see `load_split_weights`."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [B, T, D] of token ids [B, T]."""
        embedded_BTD = self.get_embeddings()(input_ids)
        position_ids = _positions(embedded_BTD, position_ids)
        return self.run_blocks(self.apply_position_encoding(embedded_BTD, position_ids), attention_mask, position_ids)


class BaseTrunkModel(BaseSplitModel):
    """Hidden states in, hidden states out: layers `start_layer` up to, not including, `end_layer`."""

    part_name = "trunk"

    def __init__(self, config: Any, start_layer: int, end_layer: int) -> None:
        super().__init__(config, start_layer, end_layer)

    @classmethod
    @abstractmethod
    def from_pretrained_split(
        cls, full_state_dict: Mapping[str, torch.Tensor], config: Any, start_layer: int, end_layer: int
    ) -> Self:
        """This part with its weights taken out of the whole model's; see `load_split_weights`."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [B, T, D] after this part's layers."""
        return self.run_blocks(hidden_states, attention_mask, position_ids)


class BaseTopModel(BaseSplitModel):
    """Hidden states in, logits out: layers from `start_layer` on, final norm and head."""

    part_name = "top"

    def __init__(self, config: Any, start_layer: int) -> None:
        super().__init__(config, start_layer, getattr(config, "num_hidden_layers", None))

    @abstractmethod
    def get_final_norm(self) -> nn.Module:
        """What runs between the last layer and the head."""

    @abstractmethod
    def get_lm_head(self) -> nn.Module:
        """The module that turns rows [B, T, D] into logits [B, T, V]."""

    @classmethod
    @abstractmethod
    def from_pretrained_split(cls, full_state_dict: Mapping[str, torch.Tensor], config: Any, start_layer: int) -> Self:
        """This part with its weights taken out of the whole model's; see `load_split_weights`."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """An output whose `logits` are [B, T, V]."""
        hidden_BTD = self.run_blocks(hidden_states, attention_mask, position_ids)
        return causal_output(self.get_lm_head()(self.get_final_norm()(hidden_BTD)))


class _Renamed:
    """The whole model's tensors, by the names that they have in a part."""

    def __init__(self, full: Mapping[str, torch.Tensor], pattern: str, start_layer: int) -> None:
        self._pattern = re.compile(pattern)
        self._start = start_layer
        self._layers: dict[str, str] = {}
        self._others: dict[str, str] = {}
        for key in full:
            dotted = f".{key}"
            match = self._pattern.search(dotted)
            number = re.search(r"\d+$", match[0]) if match else None
            if match is None or number is None:
                self._others[key] = key
                continue
            here = int(number[0]) - start_layer
            if here >= 0:
                self._layers[f"{dotted[1 : match.start() + number.start()]}{here}{dotted[match.end() :]}"] = key

    def key(self, name: str) -> str | None:
        """What the part's tensor `name` is called in the whole model; None if it is not there."""
        names = self._layers if self._is_in_layers(name) else self._others
        keys = [names[name]] if name in names else [key for n, key in names.items() if n.endswith(f".{name}")]
        if len(keys) > 1:
            raise BadCheckpoint(f"{name} could be {keys[0]} or {keys[1]} of the whole model; name it as it is there")
        return keys[0] if keys else None

    def where(self, name: str) -> str:
        """The name, and what its number counts from."""
        return f"{name} (its layers count from {self._start})" if self._is_in_layers(name) else name

    def _is_in_layers(self, name: str) -> bool:
        return self._pattern.search(f".{name}") is not None


def _positions(hidden_BTD: torch.Tensor, position_ids: torch.Tensor | None) -> torch.Tensor:
    if position_ids is not None:
        return position_ids
    return torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)[None]
