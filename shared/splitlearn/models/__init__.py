"""The documented place of the classes of split models."""

from splitlearn.split_models import (
    CausalLMBottomModel,
    CausalLMPart,
    CausalLMTopModel,
    CausalLMTrunkModel,
    GemmaBottomModel,
    GemmaTopModel,
    GemmaTrunkModel,
    GPT2BottomModel,
    GPT2TopModel,
    GPT2TrunkModel,
    Qwen2BottomModel,
    Qwen2TopModel,
    Qwen2TrunkModel,
    split_class,
)

__all__ = [
    "CausalLMBottomModel",
    "CausalLMPart",
    "CausalLMTopModel",
    "CausalLMTrunkModel",
    "GPT2BottomModel",
    "GPT2TopModel",
    "GPT2TrunkModel",
    "GemmaBottomModel",
    "GemmaTopModel",
    "GemmaTrunkModel",
    "Qwen2BottomModel",
    "Qwen2TopModel",
    "Qwen2TrunkModel",
    "split_class",
]
