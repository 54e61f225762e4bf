"""Gemma, cut in three."""

from splitlearn.split_models.causal_lm import CausalLMBottomModel, CausalLMTopModel, CausalLMTrunkModel
from splitlearn.split_models.registry import ModelRegistry


@ModelRegistry.register("gemma", "bottom")
class GemmaBottomModel(CausalLMBottomModel):
    """Embeddings and layers 0 up to, not including, `end_layer`."""


@ModelRegistry.register("gemma", "trunk")
class GemmaTrunkModel(CausalLMTrunkModel):
    """Layers `start_layer` up to, not including, `end_layer`."""


@ModelRegistry.register("gemma", "top")
class GemmaTopModel(CausalLMTopModel):
    """Layers from `start_layer` on, final norm and head."""
