"""Vanilla: the transformer of GPT-2, with a LayerNorm before each half of a layer.

    a = x + W_O attention(W_QKV LN_1(x))
    y = a + W_2 gelu(W_1 LN_2(a))

Source: "Language Models are Unsupervised Multitask Learners" (2019), with the exact GELU. Positions are learned and
added to the token embedding, unless ALiBi replaces them.

Shapes: B sequences, T rows, D hidden size.
"""

from typing import Any, ClassVar

import torch
from torch import nn

from cleangpt.model.attention import CausalAttention
from cleangpt.model.base import CleanGPTForCausalLM, CleanGPTModel, Layer
from cleangpt.model.configuration import CleanGPTConfig, VanillaConfig
from cleangpt.model.feed_forward import FeedForward
from splitlearn.hf.authoring import init


class VanillaAttention(CausalAttention):
    """Attention with queries, keys and values from one matrix product, and an output projection."""

    def __init__(self, config: CleanGPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, normed_BTD: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = (self.heads(rows) for rows in self.query_key_value(normed_BTD).chunk(3, dim=-1))
        attended_BTHd, weights = self.attend(query, key, value, **kwargs)
        return self.dropout(self.output(attended_BTHd.flatten(2))), weights


class VanillaLayer(Layer):
    """Attention, then MLP, each with a skip connection."""

    def __init__(self, config: CleanGPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=config.bias)
        self.attention = VanillaAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=config.bias)
        self.mlp = FeedForward(config)

    def begin_weights(self, deviation: float, n_layers: int) -> None:
        for projection in (self.attention.output, self.mlp.down):
            init.normal_(projection.weight, std=deviation / (2 * n_layers) ** 0.5)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended_BTD, _ = self.attention(self.attention_norm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended_BTD
        return hidden_states + torch.as_tensor(self.mlp(self.mlp_norm(hidden_states)))


class VanillaModel(CleanGPTModel):
    """The model without the head."""

    config_class = VanillaConfig
    layer_class = VanillaLayer
    _no_split_modules: ClassVar = ["VanillaLayer"]
    _can_record_outputs: ClassVar = {"hidden_states": VanillaLayer, "attentions": VanillaAttention}


class VanillaForCausalLM(CleanGPTForCausalLM):
    """The model with the head."""

    config_class = VanillaConfig
    model_class = VanillaModel
