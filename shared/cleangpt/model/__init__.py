"""Small causal language models that behave like any model of transformers; importing this package registers them.

It needs only torch and transformers, because serving such a model imports this package and no other part of cleangpt.
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
