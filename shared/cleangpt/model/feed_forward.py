"""The MLP that all architectures share."""

import torch
from torch import nn

from cleangpt.model.configuration import CleanGPTConfig


class FeedForward(nn.Module):
    """W_2 gelu(W_1 x + b_1) + b_2 with the exact GELU, followed by dropout."""

    def __init__(self, config: CleanGPTConfig) -> None:
        super().__init__()
        inner = config.intermediate_size or 4 * config.hidden_size
        self.up = nn.Linear(config.hidden_size, inner, bias=config.bias)
        self.gelu = nn.GELU()
        self.down = nn.Linear(inner, config.hidden_size, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, rows_BTD: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.dropout(self.down(self.gelu(self.up(rows_BTD)))))
