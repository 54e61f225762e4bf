"""What a model takes beside its files: keys and values of a row, states of a session, and weights that int8 rounds.

Measured on the model itself on the meta device, by one row that runs through all layers, so that no architecture is
described by hand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PretrainedConfig

from llm_sepweight import PartSpec
from splitlearn.hf.modeling import linear_weight
from splitlearn.model.part import Part, cut


@dataclass(frozen=True)
class LayerFootprint:
    """One layer, in numbers rather than bytes.

    Attributes:
        row: of the keys and values of one row.
        row_heads: heads of these, keys' and values' counted apart; int8 has a scale for each.
        state: of what a session keeps whatever its length is.
        linear: shapes of the weights of linear layers, outputs and inputs.
    """

    row: int
    row_heads: int
    state: int
    linear: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Footprint:
    """A whole model.

    Attributes:
        head: as `linear` of a layer; empty where the head is no linear layer.
        row_width: numbers in a row between two parts.
        widest: outputs of the widest linear layer between embeddings and head.
        context_length: positions that the model has; None where it has no end.
        is_measured: False where the model cannot run on the meta device; then rows are counted as if every head had
            keys and values of its own, which is the most that they can take.
    """

    layers: tuple[LayerFootprint, ...]
    head: tuple[tuple[int, int], ...]
    row_width: int
    widest: int
    context_length: int | None
    is_measured: bool


def footprint(config: PretrainedConfig) -> Footprint:
    """Builds the model without memory for its weights, and asks it.

    Raises:
        UnsupportedModel: this architecture cannot be cut.
    """
    whole = cut(config, PartSpec.parse("f"))
    layers = list(whole.model.get_submodule(whole.layout.layers).children())
    linear = [_linear(layer) for layer in layers]
    entries = _entries_of_one_row(whole)
    # some layers have several entries in the cache
    each = 0 if entries is None else len(entries) // len(layers)
    own = [(entries or [])[i * each : (i + 1) * each] for i in range(len(layers))]
    text = whole.config.get_text_config(decoder=True)
    head = linear_weight(whole.model.get_submodule(whole.layout.suffix_modules[-1]))
    return Footprint(
        layers=tuple(
            LayerFootprint(
                row=2 * whole.hidden_size if entries is None else sum(entry.row for entry in own[i]),
                row_heads=2 * text.num_attention_heads if entries is None else sum(entry.heads for entry in own[i]),
                state=sum(entry.state for entry in own[i]),
                linear=_shapes(found),
            )
            for i, found in enumerate(linear)
        ),
        head=_shapes([] if head is None else [head]),
        row_width=whole.hidden_size,
        widest=max((weight_NK.shape[0] for found in linear for weight_NK in found), default=whole.hidden_size),
        context_length=whole.context_length,
        is_measured=entries is not None,
    )


def _linear(layer: nn.Module) -> list[torch.Tensor]:
    """The weights [outputs, inputs] of its linear layers."""
    return [weight_NK for module in layer.modules() if (weight_NK := linear_weight(module)) is not None]


def _shapes(weights: Sequence[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((weight_NK.shape[0], weight_NK.shape[1]) for weight_NK in weights)


class _Entry(NamedTuple):
    """An entry of the cache: numbers in the keys and values of one row, their heads, and numbers in other tensors."""

    row: int
    heads: int
    state: int


def _entries_of_one_row(whole: Part) -> list[_Entry] | None:
    """The entries of the cache.

    None where the forward looks at values, which tensors on the meta device do not have.
    """
    # grouped products on the meta device take no other dtype
    whole.model.to(torch.bfloat16)
    for config in (whole.config, whole.config.get_text_config(decoder=True)):
        # or else models look for padding among the token ids
        config.pad_token_id = None
    cache = whole.new_cache()
    try:
        # models make tensors of their own on the way
        with torch.device("meta"), torch.inference_mode():
            whole.run(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    except (RuntimeError, NotImplementedError):
        return None
    return [_entry(vars(layer)) for layer in cache.layers]


def _entry(attributes: dict[str, Any]) -> _Entry:
    kept = [each for name in ("keys", "values") if isinstance(each := attributes.get(name), torch.Tensor)]
    row = _numbers(kept)
    return _Entry(row, sum(each.shape[:-1].numel() for each in kept), _numbers(attributes.values()) - row)


def _numbers(values: Iterable[Any]) -> int:
    total = 0
    for value in values:
        if isinstance(value, torch.Tensor):
            total += value.numel()
        elif isinstance(value, dict):
            total += _numbers(value.values())
        elif isinstance(value, list | tuple):
            total += _numbers(value)
    return total
