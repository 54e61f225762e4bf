"""Whole models on disk, of which the tensors of one part after the other can be had."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llm_sepweight import Manifest, PartSpec, PartStateDict, load
from llm_sepweight.layout import BEGIN, END, layer_of, split_place
from splitlearn.checkpoints.convert import Conversion, prepare


@dataclass(frozen=True)
class WholeModel:
    """`config` and `dtype` are those on disk; `tied` maps a place to the place that stores its tensor."""

    config: dict[str, Any]
    dtype: str
    tied: dict[str, str]
    read: Callable[[PartSpec], PartStateDict]
    _shared: dict[str, torch.Tensor] = field(default_factory=dict)

    def weights(self, spec: PartSpec, device: torch.device, dtype: torch.dtype) -> PartStateDict:
        """The tensors of a part. Those that are tied become one tensor, ready to use, in all parts that have them.

        Raises:
            SepweightError: files missing or damaged.
        """
        weights = self.read(spec)
        for place, home in [*self.tied.items(), *((home, home) for home in self.tied.values())]:
            section, name = split_place(place)
            tensors = _section(weights, section)
            if name in tensors:
                if home not in self._shared:
                    self._shared[home] = tensors[name].to(device=device, dtype=dtype)
                tensors[name] = self._shared[home]
        return weights


def open_sepweight(path: Path) -> WholeModel:
    """The model of a sepweight directory. Raises SepweightError."""
    manifest = Manifest.read(path)
    return WholeModel(manifest.config, manifest.dtype, manifest.tied, lambda spec: load(path, spec))


def open_checkpoint(source: str) -> WholeModel:
    """The model of a Hugging Face folder or hub id. Raises BadCheckpoint, UnsupportedModel."""
    conversion = prepare(source)
    return WholeModel(conversion.config, conversion.dtype, conversion.tied, lambda spec: _converted(conversion, spec))


def _converted(conversion: Conversion, spec: PartSpec) -> PartStateDict:
    wanted = spec.sections(conversion.n_layers)
    sections = {section: {t.name: t.read() for t in conversion.sections[section]} for section in wanted}
    for tied, home in conversion.tied.items():
        section, name = split_place(tied)
        if section in sections:
            home_section, home_name = split_place(home)
            source = next(t for t in conversion.sections[home_section] if t.name == home_name)
            sections[section][name] = source.read()
    mid = {layer: tensors for section, tensors in sections.items() if (layer := layer_of(section)) is not None}
    return PartStateDict(begin=sections.get(BEGIN), mid=mid, end=sections.get(END))


def _section(weights: PartStateDict, section: str) -> dict[str, torch.Tensor]:
    layer = layer_of(section)
    if layer is not None:
        return weights.mid.get(layer, {})
    return (weights.begin if section == BEGIN else weights.end) or {}
