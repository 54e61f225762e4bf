"""How many positions a model has: read off its tables, which are there or not, and not off a field of its config."""

import re
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from splitlearn.model.layout import ModelLayout

_POSITIONS = re.compile(r"(^|_)pos|^wpe$")
# They make their table in the forward, as long as this field says.
_MADE_IN_THE_FORWARD = {"mpt": "max_seq_len"}
# Rotary tables of these kinds change for all earlier positions once a text grows past the original length.
_CHANGING = ("longrope", "dynamic")


def context_length(model: PreTrainedModel, layout: ModelLayout | None) -> int | None:
    """The number of positions that a text may have; None where nothing in the model ends.

    It is the shortest of the tables of positions, or the length that the rotary tables are made for. Where these
    change past an original length, while the cache keeps keys as they were, the context ends there.

    Args:
        model: the whole model, usually on the meta device.
        layout: the model's. Of a model that has none, because it cannot be cut, all modules are read.
    """
    text = model.config.get_text_config(decoder=True)
    return min([*_tables(model, layout), *_rotary(model, layout, text)], default=None)


def _modules(model: PreTrainedModel, layout: ModelLayout | None) -> Iterator[tuple[str, nn.Module]]:
    """The modules that text passes through, of the layers the first for all that are alike."""
    if layout is None:
        yield from model.named_modules()
        return
    around = [path for path, module in model.named_modules() if isinstance(module, PreTrainedModel)]
    # towers inside the decoder that read something else
    towers = [path for path in around if not f"{layout.layers}.".startswith(f"{path}." if path else "")]
    outside = tuple(f"{path}." for path in (*layout.unused, *towers))
    for path, module in model.named_modules():
        if not f"{path}.".startswith(outside):
            yield path, module


def _tables(model: PreTrainedModel, layout: ModelLayout | None) -> Iterator[int]:
    for path, module in _modules(model, layout):
        outer, _, name = path.rpartition(".")
        is_layer = layout is not None and path.startswith(f"{layout.layers}.")
        if isinstance(module, nn.Embedding) and not is_layer and _POSITIONS.search(name):
            yield module.num_embeddings - _first(module, model.get_submodule(outer))
        for buffer_name, buffer in module.named_buffers(recurse=False):
            is_table = buffer.ndim == 2 and buffer.is_floating_point()
            if is_table and (_POSITIONS.search(name) or _POSITIONS.search(buffer_name)):
                yield buffer.shape[0] - _first(module, module)
    field = _MADE_IN_THE_FORWARD.get(model.config.model_type)
    if field is not None:
        yield int(getattr(model.config, field))


def _first(table: nn.Module, owner: nn.Module) -> int:
    """The row of a table that the first position reads."""
    padding = getattr(table, "padding_idx", None)
    if padding is not None and hasattr(owner, "create_position_ids_from_input_ids"):
        return int(padding) + 1
    offset = getattr(table, "offset", 0)
    return offset if isinstance(offset, int) else 0


def _rotary(model: PreTrainedModel, layout: ModelLayout | None, text: PretrainedConfig) -> Iterator[int]:
    if getattr(text, "alibi", False):
        # a falcon makes its rotary tables in either case, and leaves them alone
        return
    for _, module in _modules(model, layout):
        made_for = getattr(module, "original_max_seq_len", None)
        if made_for is None and any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            made_for = getattr(text, "max_position_embeddings", None)
        if made_for is not None:
            yield int(torch.as_tensor(made_for))
            yield from _changes(text)


def _changes(text: PretrainedConfig) -> Iterator[int]:
    """Where rotary tables change, which may be told for each type of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    kinds = [kind for kind in parameters.values() if isinstance(kind, dict)]
    for kind in (parameters, *kinds):
        if any(name in str(kind.get("rope_type")) for name in _CHANGING):
            for place in (kind, vars(text)):
                if place.get("original_max_position_embeddings"):
                    yield int(place["original_max_position_embeddings"])
                    break
