"""What the code of a model takes from transformers: for the models that are our own (`cleangpt.model`)."""

from typing import Any

import torch
from transformers import Cache, PretrainedConfig
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

__all__ = ["attention_function", "can_return_tuple", "capture_outputs", "causal_mask", "init", "rows_to_keep"]


def attention_function(config: PretrainedConfig, default: Any) -> Any:
    """What a model of this config attends with; `default` where that is its own code."""
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, default)


def causal_mask(
    config: PretrainedConfig,
    embedded_BTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: Cache | None,
    position_ids: torch.Tensor | None,
) -> Any:
    """The mask of a causal model in the form that its attention function takes; None where that needs none."""
    # by their places: transformers 5.24 renamed the cache
    return create_causal_mask(config, embedded_BTD, attention_mask, cache, position_ids)


def rows_to_keep(hidden_BTD: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """The rows that a head computes logits of: the last so many (0: all), or those with these indices.

    transformers has a function for it from 5.22 on.
    """
    kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    return hidden_BTD[:, kept, :]
