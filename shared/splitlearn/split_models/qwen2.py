"""Qwen2, cut in three."""

from splitlearn.split_models.causal_lm import CausalLMBottomModel, CausalLMTopModel, CausalLMTrunkModel
from splitlearn.split_models.registry import ModelRegistry


@ModelRegistry.register("qwen2", "bottom")
class Qwen2BottomModel(CausalLMBottomModel):
    """Embeddings and layers 0 up to, not including, `end_layer`."""


@ModelRegistry.register("qwen2", "trunk")
class Qwen2TrunkModel(CausalLMTrunkModel):
    """Layers `start_layer` up to, not including, `end_layer`."""


@ModelRegistry.register("qwen2", "top")
class Qwen2TopModel(CausalLMTopModel):
    """Layers from `start_layer` on, final norm and head."""
