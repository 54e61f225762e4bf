"""What transformers' models give back."""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from splitlearn.hf.cache import CACHE_NAME, named_cache

__all__ = ["BaseModelOutputWithPast", "CausalLMOutputWithPast", "cache_of", "causal_output", "decoder_output"]


def decoder_output(hidden_BTD: torch.Tensor, cache: Any) -> BaseModelOutputWithPast:
    """What a decoder gives back."""
    return BaseModelOutputWithPast(last_hidden_state=hidden_BTD, **named_cache(cache))


def cache_of(output: Any) -> Any:
    """The cache in what a model gave back; None if there is none."""
    return getattr(output, CACHE_NAME)


def causal_output(logits_BTV: torch.Tensor, cache: Any = None, **others: Any) -> CausalLMOutputWithPast:
    """What a model with a head gives back: `others` are `loss`, `hidden_states` and `attentions`."""
    return CausalLMOutputWithPast(logits=logits_BTV, **named_cache(cache), **others)
