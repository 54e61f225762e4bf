"""Read a Hugging Face checkpoint one tensor at a time, under the names its model uses in memory.

Checkpoints on disk may use other names, or several tensors where the model has one (experts, fused
projections). transformers knows the conversions; here they become recipes that are run one by one, so that
no more than the tensors of one recipe are in memory.
"""

import copy
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from splitlearn.errors import BadCheckpoint


class StoredTensor:
    """A tensor in a checkpoint's file, not read yet."""

    def __init__(self, key: str, read: Callable[[], torch.Tensor], outline: Callable[[], torch.Tensor]) -> None:
        self.key = key
        self.read = read
        self.outline = outline
        """Shape and dtype without the values: a tensor on the meta device."""


@dataclass
class Recipe:
    """Turns some tensors of the checkpoint into one or several of the model; reads them only when asked."""

    target: str
    converter: WeightConverter | None = None
    inputs: list[tuple[str, StoredTensor]] = field(default_factory=list)

    def cook(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The tensors by their names in the model's state dict."""
        return self._convert(model, [stored.read for _, stored in self.inputs])

    def outline(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The same names with tensors on the meta device; nothing is read but headers."""
        return self._convert(model, [stored.outline for _, stored in self.inputs])

    def _convert(self, model: PreTrainedModel, readers: list[Callable[[], torch.Tensor]]) -> dict[str, torch.Tensor]:
        if self.converter is None:
            return {self.target: readers[0]()}
        converter = copy.deepcopy(self.converter)
        for (pattern, stored), read in zip(self.inputs, readers, strict=True):
            converter.add_tensor(self.target, stored.key, pattern, read)
        made = converter.convert(self.target, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def recipes(source: Path, model: PreTrainedModel) -> list[Recipe]:
    """How each tensor of `model` (on the meta device) is made from the checkpoint in the folder `source`.

    Checkpoint tensors that the model does not have are left out.

    Raises:
        BadCheckpoint: no weights in the folder, or the index names a file that is not there.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    wanted = model.state_dict(keep_vars=True)
    made: dict[str, Recipe] = {}
    for key, stored in sorted(_stored_tensors(source).items(), key=lambda item: dot_natural_key(item[0])):
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, wanted)
        if name not in wanted and key in wanted:
            name, pattern = key, None
        if name not in wanted:
            continue
        converter = by_pattern[pattern] if pattern is not None else None
        made.setdefault(name, Recipe(name, converter)).inputs.append((pattern or key, stored))
    return list(made.values())


def read_tensors(source: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint by the names that they have in its files, mapped rather than read.

    Raises:
        BadCheckpoint: as `recipes`.
    """
    return {key: stored.read() for key, stored in _stored_tensors(source).items()}


def _stored_tensors(source: Path) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for file in _weight_files(source):
        stored |= _from_safetensors(file) if file.suffix == ".safetensors" else _from_pickle(file)
    return stored


def _weight_files(source: Path) -> Iterator[Path]:
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = source / f"{stem}{suffix}.index.json"
        single = source / f"{stem}{suffix}"
        if index.exists():
            shards = _shards(index)
            missing = [name for name in shards if not (source / name).exists()]
            if missing:
                raise BadCheckpoint(f"{index.name} names {missing[0]}, which is not in {source}; download it again")
            yield from (source / name for name in shards)
            return
        if single.exists():
            yield single
            return
    raise BadCheckpoint(f"{source} holds neither model.safetensors nor pytorch_model.bin, whole or in shards")


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{index} is not an index of shards; download it again") from error


def _from_safetensors(file: Path) -> dict[str, StoredTensor]:
    def tensor(key: str) -> StoredTensor:
        # opened per tensor: the mapping, and with it the shard's pages, is given back after each
        def read() -> torch.Tensor:
            with safe_open(file, framework="pt") as opened:
                return torch.as_tensor(opened.get_tensor(key))

        return StoredTensor(key, read, lambda: read().to("meta"))

    try:
        with safe_open(file, framework="pt") as opened:
            return {key: tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(f"{file} cannot be read as safetensors: {error}; download it again") from error


def _from_pickle(file: Path) -> dict[str, StoredTensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise BadCheckpoint(f"{file} holds something other than plain tensors, or is damaged: {error}") from error

    def tensor(key: str) -> StoredTensor:
        return StoredTensor(key, lambda: torch.as_tensor(state[key]), lambda: state[key].to("meta"))

    return {key: tensor(key) for key in state}
