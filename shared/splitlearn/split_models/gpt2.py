"""GPT-2, cut in three."""

from splitlearn.split_models.causal_lm import CausalLMBottomModel, CausalLMTopModel, CausalLMTrunkModel
from splitlearn.split_models.registry import ModelRegistry


@ModelRegistry.register("gpt2", "bottom")
class GPT2BottomModel(CausalLMBottomModel):
    """Embeddings and layers 0 up to, not including, `end_layer`."""


@ModelRegistry.register("gpt2", "trunk")
class GPT2TrunkModel(CausalLMTrunkModel):
    """Layers `start_layer` up to, not including, `end_layer`."""


@ModelRegistry.register("gpt2", "top")
class GPT2TopModel(CausalLMTopModel):
    """Layers from `start_layer` on, final norm and head."""
