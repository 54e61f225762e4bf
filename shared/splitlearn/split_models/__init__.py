"""The classes of the documented architectures by name, and those of every other that Hugging Face has on demand."""

from splitlearn.errors import UnsupportedModel
from splitlearn.model.architectures import is_known
from splitlearn.split_models.base import BaseSplitModel
from splitlearn.split_models.causal_lm import CausalLMBottomModel, CausalLMPart, CausalLMTopModel, CausalLMTrunkModel
from splitlearn.split_models.gemma import GemmaBottomModel, GemmaTopModel, GemmaTrunkModel
from splitlearn.split_models.gpt2 import GPT2BottomModel, GPT2TopModel, GPT2TrunkModel
from splitlearn.split_models.qwen2 import Qwen2BottomModel, Qwen2TopModel, Qwen2TrunkModel
from splitlearn.split_models.registry import ModelRegistry

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

_GENERIC = {base.part_name: base for base in (CausalLMBottomModel, CausalLMTrunkModel, CausalLMTopModel)}


def split_class(model_type: str, part: str) -> type[BaseSplitModel]:
    """The class of a part: the registered one, else one made and registered for an architecture of Hugging Face.

    Raises:
        UnsupportedModel: it is not registered, and transformers does not know the model type.
    """
    registered = ModelRegistry.find(model_type, part)
    if registered is not None:
        return registered
    if not is_known(model_type):
        raise UnsupportedModel(
            f"{model_type!r} has no {part} here, and transformers does not know the model type; "
            f"register one with @ModelRegistry.register({model_type!r}, {part!r})"
        )
    generic = _GENERIC[part]
    name = "".join(word.capitalize() for word in model_type.split("_")) + generic.__name__.removeprefix("CausalLM")
    made = type(name, (generic,), {"__doc__": generic.__doc__, "__module__": __name__})
    return ModelRegistry.register(model_type, part)(made)
