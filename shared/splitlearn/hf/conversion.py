"""How transformers turns the names and shapes in a checkpoint into those that its model has in memory."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter as WeightConverter
from transformers.core_model_loading import (
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

__all__ = ["Conversions", "WeightConverter", "as_in_checkpoint", "convert", "natural_order"]


class Conversions:
    """Those of one model, which may be on the meta device."""

    def __init__(self, model: PreTrainedModel) -> None:
        conversions = get_model_conversion_mapping(model)
        self._renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
        self._converters = [each for each in conversions if isinstance(each, WeightConverter)]
        self._by_pattern = {pattern: each for each in self._converters for pattern in each.source_patterns}
        self._prefix = model.base_model_prefix
        self._names = model.state_dict(keep_vars=True)

    def name(self, key: str) -> str:
        """What a tensor of a checkpoint is called in memory, if it is only renamed."""
        return str(rename_source_key(key, self._renamings, [], self._prefix, self._names)[0])

    def name_and_pattern(self, key: str) -> tuple[str, str | None]:
        """What a tensor of a checkpoint goes into, and the pattern of the converter that it takes part in, if any."""
        return rename_source_key(key, self._renamings, self._converters, self._prefix, self._names)  # type: ignore[no-any-return]

    def converter(self, pattern: str) -> WeightConverter:
        """The converter that a pattern of `name_and_pattern` belongs to."""
        return self._by_pattern[pattern]


def convert(
    converter: WeightConverter,
    target: str,
    model: PreTrainedModel,
    inputs: Iterable[tuple[str, str, Callable[[], torch.Tensor]]],
) -> dict[str, torch.Tensor]:
    """The tensors that a converter makes, by their names in the model.

    Args:
        target: what its inputs go into, as `Conversions.name_and_pattern` says.
        inputs: the pattern and key of each, and what reads it.
    """
    # a converter collects its inputs in itself
    converter = copy.deepcopy(converter)
    for pattern, key, read in inputs:
        converter.add_tensor(target, key, pattern, read)
    made: dict[str, Any] = converter.convert(target, model=model, config=model.config)
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def as_in_checkpoint(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some of the model's tensors, by their names in memory, under the names and in the shapes of a checkpoint.

    Args:
        model: may be on the meta device.
    """
    return dict(revert_weight_conversion(model, tensors))


def natural_order(key: str) -> Any:
    """What keys are sorted by: expert 2 before expert 10, as converters that stack tensors expect."""
    return dot_natural_key(key)
