"""Which function a model attends with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

# where a config keeps the name of its model's function
_CHOSEN = "_attn_implementation_internal"


def supports_attention_interface(model: PreTrainedModel) -> bool:
    """Whether transformers says that another function can take the place of the model's own."""
    return bool(model._supports_attention_backend)


def choose_attention(config: PretrainedConfig, name: str) -> None:
    """Lets models that are made of the config attend with the function that transformers knows by this name."""
    config._attn_implementation = name


class AttentionSwitch:
    """Lets all modules of one model attend with another function for a while.

    `PreTrainedModel.set_attn_implementation` is the public way, but checks and logs, and what a config does beside
    setting an attribute takes longer than a layer's work between its kernels.
    """

    def __init__(self, modules: Iterator[nn.Module]) -> None:
        named = (vars(module).get("config") for module in modules)
        configs = {id(config): config for config in named if isinstance(config, PretrainedConfig)}
        self._attributes: Sequence[dict[str, Any]] = [vars(config) for config in configs.values()]

    @contextmanager
    def to(self, name: str) -> Iterator[None]:
        """The function that is registered with transformers under this name."""
        before = [attributes[_CHOSEN] for attributes in self._attributes]
        try:
            for attributes in self._attributes:
                attributes[_CHOSEN] = name
            yield
        finally:
            for attributes, chosen in zip(self._attributes, before, strict=True):
                attributes[_CHOSEN] = chosen
