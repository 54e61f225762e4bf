"""A small causal model that Hugging Face does not have, whole and in three, for tests of the extension path.

Shapes: B sequences, T rows, D hidden size, V vocabulary.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from splitlearn.split_models.base import BaseBottomModel, BaseTopModel, BaseTrunkModel
from splitlearn.split_models.registry import ModelRegistry

MODEL_TYPE = "handmade"
HIDDEN, VOCABULARY, LONGEST, N_LAYERS = 16, 32, 24, 5


class Settings:
    """Stands for any config object that is not one of transformers."""

    def __init__(self) -> None:
        self.hidden_size, self.vocab_size, self.max_length = HIDDEN, VOCABULARY, LONGEST
        self.num_hidden_layers = N_LAYERS


class Block(nn.Module):
    """One causal attention head and a linear layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_BTD: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor]:
        q, k, v = self.qkv(self.norm(hidden_BTD)).chunk(3, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return (hidden_BTD + self.out(attended),)


class Decoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_length, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)


class Handmade(nn.Module):
    """The whole model."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        hidden_BTD = self.model.embed_tokens(ids_BT) + self.model.positions.weight[: ids_BT.shape[1]]
        mask = causal(hidden_BTD, None)
        for layer in self.model.layers:
            (hidden_BTD,) = layer(hidden_BTD, mask)
        return self.lm_head(self.model.norm(hidden_BTD))


def causal(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    n_rows = hidden_BTD.shape[1]
    mask = torch.ones(n_rows, n_rows, dtype=torch.bool).tril()
    return mask if mask_BT is None else mask & mask_BT[:, None, :].bool()


class _Shared:
    layers: nn.ModuleList

    def get_transformer_blocks(self) -> nn.ModuleList:
        return self.layers

    def prepare_attention_mask(self, attention_mask: torch.Tensor | None, hidden_states: torch.Tensor) -> torch.Tensor:
        return causal(hidden_states, attention_mask)

    def get_layer_name_pattern(self) -> str:
        return r"\.layers\.[0-9]+"


@ModelRegistry.register(MODEL_TYPE, "bottom")
class HandmadeBottom(_Shared, BaseBottomModel):
    def __init__(self, config: Any, end_layer: int) -> None:
        super().__init__(config, end_layer)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_length, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(end_layer))

    def get_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def apply_position_encoding(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return inputs_embeds + self.positions(position_ids)

    @classmethod
    def from_pretrained_split(cls, full_state_dict: Any, config: Any, end_layer: int) -> "HandmadeBottom":
        return cls(config, end_layer).load_split_weights(full_state_dict)


@ModelRegistry.register(MODEL_TYPE, "trunk")
class HandmadeTrunk(_Shared, BaseTrunkModel):
    def __init__(self, config: Any, start_layer: int, end_layer: int) -> None:
        super().__init__(config, start_layer, end_layer)
        self.layers = nn.ModuleList(Block(config) for _ in range(start_layer, end_layer))

    @classmethod
    def from_pretrained_split(
        cls, full_state_dict: Any, config: Any, start_layer: int, end_layer: int
    ) -> "HandmadeTrunk":
        return cls(config, start_layer, end_layer).load_split_weights(full_state_dict)


@ModelRegistry.register(MODEL_TYPE, "top")
class HandmadeTop(_Shared, BaseTopModel):
    def __init__(self, config: Any, start_layer: int) -> None:
        super().__init__(config, start_layer)
        self.layers = nn.ModuleList(Block(config) for _ in range(start_layer, config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_final_norm(self) -> nn.Module:
        return self.norm

    def get_lm_head(self) -> nn.Module:
        return self.lm_head

    @classmethod
    def from_pretrained_split(cls, full_state_dict: Any, config: Any, start_layer: int) -> "HandmadeTop":
        return cls(config, start_layer).load_split_weights(full_state_dict)


def whole_model(seed: int = 0) -> Handmade:
    """Random weights, large enough that wrong ones would show."""
    torch.manual_seed(seed)
    model = Handmade(Settings()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.requires_grad_(False)


def save_checkpoint(folder: Path, model: nn.Module, model_type: str = MODEL_TYPE) -> Path:
    """The model as a folder of the form that Hugging Face checkpoints have."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **vars(Settings())}))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder
