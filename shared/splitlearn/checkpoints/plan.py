"""Which tensors of a model are stored, what each is made of and where it goes; decided from headers."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from llm_sepweight import TensorSource
from llm_sepweight.layout import section_name
from splitlearn.checkpoints.folder import shorten
from splitlearn.checkpoints.int4 import Int4Codes
from splitlearn.checkpoints.reader import Reading, TensorConversion
from splitlearn.errors import BadCheckpoint
from splitlearn.model.layout import ModelLayout, storage_dtype


@dataclass(frozen=True)
class CheckpointPlan:
    """Names are those of the model's state dict; the model is on the meta device."""

    model: PreTrainedModel
    layout: ModelLayout
    stored: dict[str, torch.Tensor]
    """What is to be stored: the model's tensors without those that are tied to another."""
    conversions: dict[str, TensorConversion]
    """What makes each tensor of which the checkpoint holds something."""
    outlines: dict[str, torch.Tensor]
    """What comes of the conversions: shapes on the meta device."""
    tied: dict[str, str]
    """Tensors that are not stored, and the stored one that each of them is."""

    @property
    def tied_places(self) -> dict[str, str]:
        """`tied` by the places in a sepweight directory."""
        return {self._place(target): self._place(stored) for target, stored in self.tied.items()}

    def check(self, folder: Path, reading: Reading) -> None:
        """Compares what the checkpoint makes with what the model wants.

        Raises:
            BadCheckpoint: tensors are missing or of another shape.
        """
        missing = sorted(self.stored.keys() - self.conversions.keys())
        if missing:
            unused = [tensor.key for tensor in reading.left_out]
            instead = f"; it holds {shorten(unused)} instead" if unused else ""
            raise BadCheckpoint(f"{folder} lacks {len(missing)} tensors of the model: {shorten(missing)}{instead}")
        for key, outline in self.outlines.items():
            wanted = self.stored.get(key, outline)
            if outline.shape != wanted.shape:
                raise BadCheckpoint(
                    f"{key} should have the shape {list(wanted.shape)}, found {list(outline.shape)}; "
                    "config.json and weights are of different models"
                )

    def sections(
        self, dtype: torch.dtype, kept: Mapping[str, Int4Codes] | None = None
    ) -> dict[str, list[TensorSource]]:
        """The tensors of each section of a sepweight directory, read and converted when they are asked for.

        Args:
            dtype: what floating-point tensors are stored in, but for those that transformers keeps in fp32.
            kept: weights that are stored in 4 bits, by their keys.
        """
        layers = (section_name(layer) for layer in range(self.layout.n_layers))
        sections: dict[str, list[TensorSource]] = {name: [] for name in ("begin", *layers, "end")}
        results = _LastResult(self.model)
        for key, outline in self.stored.items():
            section, layer, name = self.layout.place(key)
            stored_as = storage_dtype(self.model, key, outline.dtype, dtype)
            source = TensorSource(name, stored_as, tuple(outline.shape), results.reader(self.conversions[key], key))
            sources = kept[key].sources(name) if kept and key in kept else [source]
            sections[section if layer is None else section_name(layer)] += sources
        return sections

    def keep_int4(self) -> tuple[dict[str, Int4Codes], dict[str, list[str]]]:
        """The weights that can be stored as their levels of 4 bits; and by reason, those of 4 bits that cannot.

        Reads scales and zeros.
        """
        kept: dict[str, Int4Codes] = {}
        dequantized: dict[str, list[str]] = {}
        for key in self.stored:
            conversion = self.conversions[key]
            codes = next((stored.int4 for _, stored in conversion.inputs if stored.int4 is not None), None)
            if codes is None:
                continue
            obstacle = self._obstacle(key) or codes.obstacle()
            if obstacle is None:
                kept[key] = codes
            else:
                dequantized.setdefault(obstacle, []).append(key)
        return kept, dequantized

    def _obstacle(self, key: str) -> str | None:
        """Why a tensor of the model cannot be one of 4 bits, whatever its codes; None if it can."""
        if self.conversions[key].converter is not None:
            return "the model arranges them in another way"
        module, _, name = key.rpartition(".")
        if name != "weight" or type(self.model.get_submodule(module)) is not nn.Linear:
            return "they are of no linear layer"
        return "they are tied" if key in self.tied.values() else None

    def needs(self) -> dict[str, frozenset[str]]:
        """By section: the names in the checkpoint's files of what its tensors are made of."""
        needs: dict[str, set[str]] = {}
        for key in self.stored:
            section, layer, _ = self.layout.place(key)
            inputs = (name for _, stored in self.conversions[key].inputs for name in stored.made_of or (stored.key,))
            needs.setdefault(section if layer is None else section_name(layer), set()).update(inputs)
        return {section: frozenset(keys) for section, keys in needs.items()}

    def _place(self, key: str) -> str:
        section, layer, name = self.layout.place(key)
        return f"{section if layer is None else section_name(layer)}/{name}"


def plan_tensors(
    model: PreTrainedModel, layout: ModelLayout, reading: Reading, *, at_hand: bool = True
) -> CheckpointPlan:
    """Reads numbers only where two tensors that may be tied are both stored.

    Args:
        at_hand: whether they may be read for that; if not, two that are stored are not tied.

    Raises:
        BadCheckpoint: the stored tensors are not such that the model's could be made of them.
    """
    every = model.state_dict(keep_vars=True)
    made = [(conversion, conversion.outline(model)) for conversion in reading.conversions]
    conversions = {key: conversion for conversion, outlines in made for key in outlines}
    tied = _tied(model, every.keys(), conversions, at_hand)
    for target, stored in tied.items():
        if stored not in conversions and target in conversions:
            conversions[stored] = conversions[target]
    return CheckpointPlan(
        model=model,
        layout=layout,
        stored={key: tensor for key, tensor in every.items() if key not in tied},
        conversions=conversions,
        outlines={key: outline for _, outlines in made for key, outline in outlines.items()},
        tied=tied,
    )


def lacking(model: PreTrainedModel, reading: Reading) -> list[str]:
    """Tensors of a model of which a checkpoint holds nothing; one that may be tied to another is none."""
    targets = {conversion.target for conversion in reading.conversions}
    return sorted(model.state_dict(keep_vars=True).keys() - targets - set(model.all_tied_weights_keys))


def _tied(
    model: PreTrainedModel, keys: Collection[str], conversions: Mapping[str, TensorConversion], at_hand: bool
) -> dict[str, str]:
    """The pairs that share one tensor. As in transformers, two that are stored and differ are not tied."""

    def differ(target: str, stored: str) -> bool:
        if target not in conversions or stored not in conversions:
            return False
        if not at_hand:
            return True
        return not torch.equal(conversions[target].apply(model)[target], conversions[stored].apply(model)[stored])

    pairs = [pair for pair in model.all_tied_weights_keys.items() if pair[0] in keys and pair[1] in keys]
    return {target: stored for target, stored in pairs if not differ(target, stored)}


class _LastResult:
    """Runs conversions; keeps only the last result, for those that make several tensors in a row."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._last: tuple[TensorConversion, dict[str, torch.Tensor]] | None = None

    def reader(self, conversion: TensorConversion, key: str) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            if self._last is None or self._last[0] is not conversion:
                self._last = None
                self._last = (conversion, conversion.apply(self._model))
            made = self._last[1]
            # a tied tensor may be made under the other of its two names
            return made[key] if key in made else next(iter(made.values()))

        return read
