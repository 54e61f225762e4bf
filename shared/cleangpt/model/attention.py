"""The attention code that all architectures share: heads, cache, positions, and the kernel that transformers chose.

Shapes: B sequences, T rows, N rows including cached ones, D hidden size, H heads, d width of a head.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Cache

from cleangpt.model.alibi import N_COLUMNS, AlibiColumns
from cleangpt.model.configuration import CleanGPTConfig
from splitlearn.hf.authoring import attention_function


class CausalAttention(nn.Module):
    """Causal attention without projections; each architecture adds its own."""

    def __init__(self, config: CleanGPTConfig, layer_idx: int, queries_per_head: int = 1) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.n_head = config.num_attention_heads
        self.head_width = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_width**-0.5
        # transformers' kernels read these two attributes
        self.num_key_value_groups = queries_per_head
        self.is_causal = True

    def heads(self, rows_BTD: torch.Tensor) -> torch.Tensor:
        """Reshapes [B, T, D] to [B, H, T, d]."""
        return self.channels(rows_BTD).transpose(1, 2)

    def channels(self, rows_BTD: torch.Tensor) -> torch.Tensor:
        """Reshapes [B, T, D] to [B, T, H, d]: each head has its own channels."""
        return rows_BTD.view(*rows_BTD.shape[:2], self.n_head, self.head_width)

    def attend(
        self,
        query_BHTd: torch.Tensor,
        key_BHTd: torch.Tensor,
        value_BHTd: torch.Tensor,
        *,
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        alibi: AlibiColumns | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Appends keys and values to the cache, and attends to all rows in it.

        Args:
            query_BHTd: with several queries per head [B, H x queries, T, d], those of one head side by side.

        Returns:
            The output [B, T, H x queries, d], and the weights [B, H x queries, T, N] if the kernel returns them.
        """
        if alibi is not None:
            columns_BHTc = alibi.query.repeat_interleave(self.num_key_value_groups, dim=1)
            query_BHTd = _beside(query_BHTd, columns_BHTc)
            key_BHTd = _beside(key_BHTd, alibi.key)
            # fast kernels need keys and values of equal width
            value_BHTd = functional.pad(value_BHTd, (0, N_COLUMNS))
        # the argument's name depends on the version of transformers
        cache = past_key_values if cache is None else cache
        if cache is not None:
            key_BHTd, value_BHTd = cache.update(key_BHTd, value_BHTd, self.layer_idx)
        kernel = attention_function(self.config, eager_attention)
        dropout = self.config.dropout if self.training else 0.0
        output_BTHd, weights_BHTN = kernel(
            self, query_BHTd, key_BHTd, value_BHTd, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return output_BTHd[..., : self.head_width], weights_BHTN


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eager implementation of transformers' attention interface; the only kernel that returns its weights."""
    groups = int(module.num_key_value_groups)  # type: ignore[arg-type]  # set in CausalAttention
    key_BHNd = key.repeat_interleave(groups, dim=1)
    scores_BHTN = torch.matmul(query, key_BHNd.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores_BHTN = scores_BHTN + attention_mask
    weights_BHTN = torch.softmax(scores_BHTN, dim=-1, dtype=torch.float32).to(value.dtype)
    weights_BHTN = functional.dropout(weights_BHTN, dropout, training=module.training)
    output_BHTd = torch.matmul(weights_BHTN, value.repeat_interleave(groups, dim=1))
    return output_BHTd.transpose(1, 2), weights_BHTN


def _beside(rows_BHTd: torch.Tensor, columns_BHTc: torch.Tensor) -> torch.Tensor:
    columns_BHTc = columns_BHTc.to(rows_BHTd.dtype).expand(rows_BHTd.shape[0], -1, -1, -1)
    return torch.cat([rows_BHTd, columns_BHTc], dim=-1)
