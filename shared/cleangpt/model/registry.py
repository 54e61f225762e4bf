"""The registry of models by name, and their registration with transformers."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from cleangpt.config import COMMON_OPTIONS, OPTIONS, GPTConfig
from cleangpt.errors import ModelNameTakenError, ModelOptionError, ModelUnknownError
from cleangpt.model.base import CleanGPTForCausalLM
from cleangpt.model.factored import FactoredForCausalLM
from cleangpt.model.sasp import SASPForCausalLM
from cleangpt.model.vanilla import VanillaForCausalLM

ModelBuilder = Callable[[GPTConfig], PreTrainedModel]
B = TypeVar("B", bound=ModelBuilder)

MODEL_REGISTRY: dict[str, ModelBuilder] = {}
"""Maps a model's name to the function or class that builds it from a `GPTConfig`."""

_OPTIONS: dict[str, tuple[str, ...]] = {}


def register_model(name: str, options: Iterable[str] = COMMON_OPTIONS) -> Callable[[B], B]:
    """A decorator that registers a function or class that builds a causal model from a `GPTConfig`.

    Args:
        options: the names of the options that it reads; `get_model` refuses the others.

    Raises:
        ModelNameTakenError: another builder already has the name.
    """

    def register(builder: B) -> B:
        if MODEL_REGISTRY.setdefault(name, builder) is not builder:
            raise ModelNameTakenError(f"a model called {name!r} is registered already; choose another name")
        _OPTIONS[name] = tuple(options)
        return builder

    return register


def get_model(name: str, config: GPTConfig) -> PreTrainedModel:
    """A causal language model with fresh weights.

    Args:
        name: a key of `MODEL_REGISTRY`; `config.model_type` is ignored.

    Raises:
        ModelUnknownError: the name is not registered.
        ModelOptionError: an option is not at its default, and the model does not have it.
    """
    if name not in MODEL_REGISTRY:
        raise ModelUnknownError(
            f"there is no model called {name!r}; choose one of {', '.join(sorted(MODEL_REGISTRY))}, "
            "or register it with register_model"
        )
    check_options(name, config.changed_options)
    return MODEL_REGISTRY[name](config)


def options_of(name: str) -> tuple[str, ...]:
    """The options of a model; none if the name is not registered."""
    return _OPTIONS.get(name, COMMON_OPTIONS) if name in MODEL_REGISTRY else ()


def check_options(name: str, asked: Iterable[str]) -> None:
    """Raises ModelOptionError, which says who has the option, if the model does not have one of those in `asked`."""
    for option in asked:
        if option not in options_of(name):
            having = [each for each in sorted(MODEL_REGISTRY) if option in options_of(each)]
            raise ModelOptionError(
                f"{option} is an option of {', '.join(having)}, and {name} does not have it; leave it out"
            )


def _options_in(model_class: type[CleanGPTForCausalLM]) -> tuple[str, ...]:
    """The options that are fields of the model's own config."""
    return tuple(option for option in OPTIONS if hasattr(model_class.config_class, option))


def _made_of(model_class: type[CleanGPTForCausalLM], config: GPTConfig) -> CleanGPTForCausalLM:
    return model_class(
        model_class.config_class(
            vocab_size=config.vocab_size,
            hidden_size=config.n_embd,
            intermediate_size=config.n_inner,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            max_position_embeddings=config.block_size,
            **{option: getattr(config, option) for option in _options_in(model_class)},
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
    )


@register_model("Vanilla", _options_in(VanillaForCausalLM))
def _vanilla(config: GPTConfig) -> PreTrainedModel:
    return _made_of(VanillaForCausalLM, config)


@register_model("SASP", _options_in(SASPForCausalLM))
def _sasp(config: GPTConfig) -> PreTrainedModel:
    return _made_of(SASPForCausalLM, config)


@register_model("Factored", _options_in(FactoredForCausalLM))
def _factored(config: GPTConfig) -> PreTrainedModel:
    return _made_of(FactoredForCausalLM, config)


@register_model("FactoredALiBi", _options_in(FactoredForCausalLM))
def _factored_alibi(config: GPTConfig) -> PreTrainedModel:
    return _made_of(FactoredForCausalLM, replace(config, alibi=True))


for _class in (VanillaForCausalLM, SASPForCausalLM, FactoredForCausalLM):
    AutoConfig.register(_class.config_class.model_type, _class.config_class)
    AutoModel.register(_class.config_class, _class.model_class)
    AutoModelForCausalLM.register(_class.config_class, _class)
