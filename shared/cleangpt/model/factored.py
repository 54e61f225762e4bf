"""Token-Factored: two residual streams, x_t for what tokens are and x_e for what they mean in context.

It follows "The Dual-Stream Transformer" (arXiv 2603.07461), where only attention writes into the token stream, only the
MLP writes into the context stream, and heads are mixed by scalars only (Kronecker mixing, W (x) I). Before the first
layer x_t is the token embedding and x_e is zero. Each layer computes

    n    = LN_1(x_t + x_e),   q = W_Q n,   k = W_K n
    v_h  = sum_g V_hg x_t,g                                (x_t,g: the channels of head g; V is H x H)
    x_t' = x_t + [z_1 ... z_H],   z_h = sum_g O_hg A_g v_g,   A_g = softmax(mask + q_g k_g^T / sqrt(d))
    x_e' = x_e + W_2 gelu(W_1 LN_2(x_t' + x_e))

and the final norm takes x_t + x_e. V and O weigh whole heads, so channel i of a head only ever receives channel i of
other heads and rows: x_t remains a sum of token embeddings, channel by channel. From the paper: the two streams, what
writes into which, and the form of the mixing. Our own choices, where its abstract is silent: q, k and the MLP read the
sum of both streams through a LayerNorm, values are read from x_t without one, V is initialized to the identity, and O
to the identity over sqrt(2 layers).

With `head_mixing=False`, V and O are the identity and no parameters: x_t' = x_t + [A_1 x_t,1 ... A_H x_t,H]. Nothing is
divided by sqrt(2 layers) then, as training could not change such a scale. A row of A sums to 1, so x_t may double with
each layer. The LayerNorms take the scale out of the sum of both streams, but x_e weighs less in it, the deeper the
layer.

A layer passes on both streams side by side, [B, T, 2D] with x_t first, so a cut sends both.

Shapes: B sequences, T rows, D hidden size, H heads, d width of a head.
"""

from typing import Any, ClassVar

import torch
from torch import nn

from cleangpt.model.attention import CausalAttention
from cleangpt.model.base import CleanGPTForCausalLM, CleanGPTModel, Layer
from cleangpt.model.configuration import FactoredConfig
from cleangpt.model.feed_forward import FeedForward
from splitlearn.hf.authoring import init


class HeadMixing(nn.Module):
    """Replaces each head with a weighted sum of heads, channel by channel: W (x) I with W [H, H]."""

    def __init__(self, n_head: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(n_head))

    def forward(self, rows_BTHd: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.weight, rows_BTHd)


class FactoredAttention(CausalAttention):
    """Attention with queries and keys from both streams and values from the token stream alone."""

    def __init__(self, config: FactoredConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.query_key = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=config.bias)
        self.value_mixing = HeadMixing(self.n_head) if config.head_mixing else nn.Identity()
        self.output_mixing = HeadMixing(self.n_head) if config.head_mixing else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, normed_BTD: torch.Tensor, token_BTD: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key = (self.heads(rows) for rows in self.query_key(normed_BTD).chunk(2, dim=-1))
        value = self.value_mixing(self.channels(token_BTD)).transpose(1, 2)
        attended_BTHd, weights = self.attend(query, key, value, **kwargs)
        return self.dropout(self.output_mixing(attended_BTHd).flatten(2)), weights


class FactoredLayer(Layer):
    """A layer whose attention writes into the first half of a row, and whose MLP writes into the second."""

    def __init__(self, config: FactoredConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=config.bias)
        self.attention = FactoredAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=config.bias)
        self.mlp = FeedForward(config)

    def begin_weights(self, deviation: float, n_layers: int) -> None:
        n_writers = 2 * n_layers
        if isinstance(self.attention.value_mixing, HeadMixing):
            init.eye_(self.attention.value_mixing.weight)
        if isinstance(self.attention.output_mixing, HeadMixing):
            mixing = self.attention.output_mixing.weight
            init.copy_(mixing, torch.eye(mixing.shape[0], device=mixing.device) / n_writers**0.5)
        init.normal_(self.mlp.down.weight, std=deviation / n_writers**0.5)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        token_BTD, context_BTD = hidden_states.chunk(2, dim=-1)
        attended_BTD, _ = self.attention(self.attention_norm(token_BTD + context_BTD), token_BTD, **kwargs)
        token_BTD = token_BTD + attended_BTD
        context_BTD = context_BTD + self.mlp(self.mlp_norm(token_BTD + context_BTD))
        return torch.cat([token_BTD, context_BTD], dim=-1)


class FactoredModel(CleanGPTModel):
    """The model without the head."""

    config_class = FactoredConfig
    layer_class = FactoredLayer
    _no_split_modules: ClassVar = ["FactoredLayer"]
    _can_record_outputs: ClassVar = {"hidden_states": FactoredLayer, "attentions": FactoredAttention}

    def into_layers(self, embedded_BTD: torch.Tensor) -> torch.Tensor:
        return torch.cat([embedded_BTD, torch.zeros_like(embedded_BTD)], dim=-1)

    def out_of_layers(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        token_BTD, context_BTD = hidden_BTD.chunk(2, dim=-1)
        return token_BTD + context_BTD


class FactoredForCausalLM(CleanGPTForCausalLM):
    """The model with the head."""

    config_class = FactoredConfig
    model_class = FactoredModel
