"""SASP: the simplified attention sub-block with projections, parallel to its MLP, by default without skips.

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

Three options change the layer:

- `value_projection`: v = W_V n takes the place of n in all three terms of s. W_V is initialized to the identity.
- `output_projection=False`: there is no W_P, as in the paper.
- `skip_connections`: y = x + W_P [s_1 ... s_H] + beta_FF W_2 gelu(W_1 n). The skip carries the identity that alpha
  carries otherwise, so alpha is initialized to 0: with 1 the layer would start as x + n, and there may be no matrix
  between heads and stream that could start small. The layer thus starts as x plus its MLP, whichever of W_V and W_P it
  has. Attention does not stay at zero: both alpha and, as beta is 1, W_Q have a gradient from the first step on.

C needs no separate pass: every head has a second query, all zeros, in the same call to the kernel. This also works with
a cache, padding and many sessions in a batch, where a running mean would need additional state.

Shapes: B sequences, T rows, D hidden size, H heads, d width of a head.
"""

from typing import Any, ClassVar

import torch
from torch import nn

from cleangpt.model.attention import CausalAttention
from cleangpt.model.base import CleanGPTForCausalLM, CleanGPTModel, Layer
from cleangpt.model.configuration import SASPConfig
from cleangpt.model.feed_forward import FeedForward
from splitlearn.hf.authoring import init

_MLP_GAIN = 0.1


def _square(config: SASPConfig) -> nn.Linear:
    return nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)


class SASPAttention(CausalAttention):
    """Shaped attention, with the projections that the config asks for.

    It returns the weights A_1, C_1, A_2, C_2, ...
    """

    def __init__(self, config: SASPConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx, queries_per_head=2)
        self.query = _square(config)
        self.key = _square(config)
        self.value = _square(config) if config.value_projection else nn.Identity()
        self.output = _square(config) if config.output_projection else nn.Identity()
        self.alpha = nn.Parameter(torch.ones(self.n_head))
        self.beta = nn.Parameter(torch.ones(self.n_head))
        self.gamma = nn.Parameter(torch.ones(self.n_head))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, normed_BTD: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        query_BHTd = self.heads(self.query(normed_BTD))
        # the two queries of a head are adjacent: its own, then zeros
        query_BHTd = torch.stack([query_BHTd, torch.zeros_like(query_BHTd)], dim=2).flatten(1, 2)
        value_BTD = self.value(normed_BTD)
        # values need the dtype of the keys, which differs from that of the rows under autocast
        value_BHTd = self.heads(value_BTD.to(query_BHTd.dtype))
        both_BTHd, weights = self.attend(query_BHTd, self.heads(self.key(normed_BTD)), value_BHTd, **kwargs)
        found_BTHd, mean_BTHd = both_BTHd[:, :, 0::2], both_BTHd[:, :, 1::2]
        alpha_H1, beta_H1, gamma_H1 = (gain[:, None] for gain in (self.alpha, self.beta, self.gamma))
        shaped_BTHd = alpha_H1 * self.channels(value_BTD) + beta_H1 * found_BTHd - gamma_H1 * mean_BTHd
        return self.dropout(self.output(shaped_BTHd.flatten(2))), weights


class SASPLayer(Layer):
    """The sum of attention and MLP, both applied to the same normed rows; with skip connections also of the rows."""

    def __init__(self, config: SASPConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon, bias=config.bias)
        self.attention = SASPAttention(config, layer_idx)
        self.mlp = FeedForward(config)
        self.mlp_gain = nn.Parameter(torch.full((1,), _MLP_GAIN))
        self.has_skip = config.skip_connections

    def begin_weights(self, deviation: float, n_layers: int) -> None:
        init.zeros_(self.attention.query.weight)
        for projection in (self.attention.value, self.attention.output):
            if isinstance(projection, nn.Linear):
                init.eye_(projection.weight)
        init.constant_(self.attention.alpha, 0.0 if self.has_skip else 1.0)
        for gain in (self.attention.beta, self.attention.gamma):
            init.ones_(gain)
        init.constant_(self.mlp_gain, _MLP_GAIN)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        normed_BTD = self.norm(hidden_states)
        attended_BTD, _ = self.attention(normed_BTD, **kwargs)
        written_BTD = attended_BTD + self.mlp_gain * self.mlp(normed_BTD)
        return torch.as_tensor(hidden_states + written_BTD if self.has_skip else written_BTD)


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
