"""SASP: the simplified attention sub-block with projections, parallel to its MLP, without skip connections.

It follows "Simplifying Transformer Blocks" (ICLR 2024, arXiv 2311.01906), section 4. With n = LN(x), for head h:

    A_h = softmax(mask + q_h k_h^T / sqrt(d)),   q = W_Q n,   k = W_K n
    C_h = A_h for q = 0: each row weighs all rows that it sees equally (with ALiBi: near ones more than far ones)
    s_h = alpha_h n_h + beta_h A_h n_h - gamma_h C_h n_h       (shaped attention; n_h: the channels of head h)
    y   = W_P [s_1 ... s_H] + beta_FF W_2 gelu(W_1 n)          (attention and MLP in parallel)

There are no value projections: heads mix their own channels of the rows directly. alpha, beta and gamma are trained,
one of each per head. They are initialized to 1 and W_Q to 0, so that A = C and the sub-block starts as the identity,
which replaces the skip. The paper's SAS-P block (P for parallel) has neither values nor projections; this one keeps the
output projection W_P (P for projections), initialized to the identity, so that heads can pass on what they found to
others. beta_FF is trained and initialized to 0.1.

C needs no separate pass: every head has a second query, all zeros, in the same call to the kernel. This also works with
a cache, padding and many sessions in a batch, where a running mean would need additional state.

Shapes: B sequences, T rows, D hidden size, H heads, d width of a head.
"""

from typing import Any, ClassVar

import torch
from torch import nn

from cleangpt.model.attention import CausalAttention
from cleangpt.model.base import CleanGPTForCausalLM, CleanGPTModel, Layer
from cleangpt.model.configuration import CleanGPTConfig, SASPConfig
from cleangpt.model.feed_forward import FeedForward
from splitlearn.hf.authoring import init

_MLP_GAIN = 0.1


class SASPAttention(CausalAttention):
    """Shaped attention without values, and an output projection. It returns the weights A_1, C_1, A_2, C_2, ..."""

    def __init__(self, config: CleanGPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx, queries_per_head=2)
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.alpha = nn.Parameter(torch.ones(self.n_head))
        self.beta = nn.Parameter(torch.ones(self.n_head))
        self.gamma = nn.Parameter(torch.ones(self.n_head))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, normed_BTD: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        query_BHTd = self.heads(self.query(normed_BTD))
        # the two queries of a head are adjacent: its own, then zeros
        query_BHTd = torch.stack([query_BHTd, torch.zeros_like(query_BHTd)], dim=2).flatten(1, 2)
        # values need the dtype of the keys, which differs from that of the rows under autocast
        value_BHTd = self.heads(normed_BTD.to(query_BHTd.dtype))
        both_BTHd, weights = self.attend(query_BHTd, self.heads(self.key(normed_BTD)), value_BHTd, **kwargs)
        found_BTHd, mean_BTHd = both_BTHd[:, :, 0::2], both_BTHd[:, :, 1::2]
        alpha_H1, beta_H1, gamma_H1 = (gain[:, None] for gain in (self.alpha, self.beta, self.gamma))
        shaped_BTHd = alpha_H1 * self.channels(normed_BTD) + beta_H1 * found_BTHd - gamma_H1 * mean_BTHd
        return self.dropout(self.output(shaped_BTHd.flatten(2))), weights


class SASPLayer(Layer):
    """The sum of attention and MLP, both applied to the same normed rows."""

    def __init__(self, config: CleanGPTConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=config.bias)
        self.attention = SASPAttention(config, layer_idx)
        self.mlp = FeedForward(config)
        self.mlp_gain = nn.Parameter(torch.full((1,), _MLP_GAIN))

    def begin_weights(self, deviation: float, n_layers: int) -> None:
        init.zeros_(self.attention.query.weight)
        init.eye_(self.attention.output.weight)
        for gain in (self.attention.alpha, self.attention.beta, self.attention.gamma):
            init.ones_(gain)
        init.constant_(self.mlp_gain, _MLP_GAIN)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        normed_BTD = self.norm(hidden_states)
        attended_BTD, _ = self.attention(normed_BTD, **kwargs)
        return torch.as_tensor(attended_BTD + self.mlp_gain * self.mlp(normed_BTD))


class SASPModel(CleanGPTModel):
    """The model without the head."""

    config_class = SASPConfig
    layer_class = SASPLayer
    _no_split_modules: ClassVar = ["SASPLayer"]
    _can_record_outputs: ClassVar = {"hidden_states": SASPLayer, "attentions": SASPAttention}


class SASPForCausalLM(CleanGPTForCausalLM):
    """The model with the head."""

    config_class = SASPConfig
    model_class = SASPModel
