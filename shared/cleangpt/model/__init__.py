"""Small causal language models that behave like any of transformers'; importing this registers them there.

Needs torch and transformers and nothing else: whoever serves such a model imports this and no more of cleangpt.
"""

from cleangpt.model.configuration import CleanGPTConfig, FactoredConfig, SASPConfig, VanillaConfig
from cleangpt.model.factored import FactoredForCausalLM, FactoredModel
from cleangpt.model.registry import MODEL_REGISTRY, get_model, register_model
from cleangpt.model.sasp import SASPForCausalLM, SASPModel
from cleangpt.model.vanilla import VanillaForCausalLM, VanillaModel

__all__ = [
    "MODEL_REGISTRY",
    "CleanGPTConfig",
    "FactoredConfig",
    "FactoredForCausalLM",
    "FactoredModel",
    "SASPConfig",
    "SASPForCausalLM",
    "SASPModel",
    "VanillaConfig",
    "VanillaForCausalLM",
    "VanillaModel",
    "get_model",
    "register_model",
]
