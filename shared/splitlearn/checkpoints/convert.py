"""Hugging Face checkpoint -> sepweight directory, one tensor at a time."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from llm_sepweight import Manifest, SepweightWriter, TensorSource
from llm_sepweight.tensor_file import file_size
from splitlearn.checkpoints.folder import (
    check_name,
    checkpoint_name,
    find_checkpoint,
    inside,
    read_config,
    shorten,
    tokenizer_files,
    tokenizer_names,
)
from splitlearn.checkpoints.load import resolve_dtype
from splitlearn.checkpoints.plan import lacking, plan_tensors
from splitlearn.checkpoints.quantized import refuse_declared, refuse_stored
from splitlearn.checkpoints.reader import Reading, read_checkpoint
from splitlearn.checkpoints.tokenizer_files import has_vocabulary
from splitlearn.checkpoints.weight_files import StoredTensor, stored_tensors
from splitlearn.model.cache import cache_layer_specs
from splitlearn.model.layout import (
    ModelLayout,
    build_on_meta,
    config_from_dict,
    inspect_model,
    leave_out,
)
from splitlearn.model.plan import SplitPlan


@dataclass(frozen=True)
class Conversion:
    """Everything decided, nothing written: what `prepare` found out about a checkpoint."""

    source: Path
    model_name: str
    n_layers: int
    sections: dict[str, list[TensorSource]]
    tied: dict[str, str]
    dtype: str
    config: dict[str, object]
    tokenizer_files: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Tensors of the checkpoint that the model has no place for."""
    needs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By section: the tensors of the checkpoint that it is made of."""

    @property
    def total_bytes(self) -> int:
        """Bytes that `write` will put out for the sections, headers included."""
        return sum(file_size(tensors) for tensors in self.sections.values())

    def left_out_in_one_line(self) -> str | None:
        """Which tensors are left out, of many alike one; None if all have a place."""
        if not self.left_out:
            return None
        count = f"{len(self.left_out)} tensor{'s' if len(self.left_out) > 1 else ''}"
        return f"left out {count} that the model has no place for: {shorten(self.left_out)}"

    def write(self, out: Path, *, overwrite: bool = False, progress: Callable[[int], None] | None = None) -> Manifest:
        """Writes the directory; the manifest comes last, so that an interrupted run leaves nothing that loads.

        If it fails, what it wrote is removed; a finished model that is to be replaced stays whole until then.

        Args:
            out: the directory to make; finished ones are refused unless `overwrite`.
            progress: told the number of bytes each time some have gone out.

        Raises:
            SepweightError: `out` is a finished directory already, lies in the checkpoint's folder, has too little
                room, or cannot be written.
        """
        beside = sum((self.source / name).stat().st_size for name in self.tokenizer_files)
        with SepweightWriter(out, overwrite=overwrite, source=self.source, needed=self.total_bytes + beside) as writer:
            for section, tensors in self.sections.items():
                writer.write_section(section, tensors, progress)
            if overwrite and has_vocabulary(self.tokenizer_files):
                # what another model left there would be read with this one's
                writer.drop(set(tokenizer_names(out)) - set(self.tokenizer_files))
            for name in self.tokenizer_files:
                writer.copy_beside(inside(self.source, name), name)
            return writer.commit(
                model_name=self.model_name,
                config=self.config,
                dtype=self.dtype,
                n_layers=self.n_layers,
                tied=self.tied,
            )


def prepare(
    source: str,
    *,
    dtype: str | None = None,
    name: str | None = None,
    stored: Mapping[str, StoredTensor] | None = None,
) -> Conversion:
    """Reads config and headers of a checkpoint and decides which tensor goes where.

    Args:
        source: a local folder, or the id of a model on the Hugging Face hub (from the cache when offline).
        dtype: store floating-point tensors in this dtype; None keeps the checkpoint's.
        name: what the model is called from now on; None takes the last part of `source`.
        stored: the checkpoint's tensors where they are not in its folder; none is read before its section is written.

    Raises:
        BadCheckpoint: no such folder or model, files that are not what they should be or lie outside the folder, or
            tensors missing or of the wrong shape.
        UnsupportedModel: the architecture cannot be cut, or the weights are quantised, with the reason.
        BadPlan: the model has too few layers to be cut.
        BadDevice: a dtype that no model is run in.
    """
    folder = find_checkpoint(source)
    values = read_config(folder)
    refuse_declared(source, values, folder)
    named_dtype = dtype or _named_dtype(values)
    if named_dtype is not None:
        resolve_dtype(named_dtype)
    model_name = check_name(name) if name else checkpoint_name(source, folder)
    config = config_from_dict(values)
    model, layout = _inspect(config)
    reading = read_checkpoint(stored_tensors(folder) if stored is None else stored, model)
    refuse_stored(source, reading.used(model.state_dict(keep_vars=True)), reading.left_out, lacking(model, reading))
    plan = plan_tensors(model, layout, reading, at_hand=stored is None)
    plan.check(folder, reading)
    target_dtype = named_dtype or _commonest_dtype(reading)
    return Conversion(
        source=folder,
        model_name=model_name,
        n_layers=layout.n_layers,
        sections=plan.sections(resolve_dtype(target_dtype)),
        tied=plan.tied_places,
        dtype=target_dtype,
        config={**values, "model_type": config.model_type},
        tokenizer_files=tuple(tokenizer_files(folder)),
        left_out=tuple(tensor.key for tensor in reading.left_out),
        needs=plan.needs(),
    )


def _inspect(config: PretrainedConfig) -> tuple[PreTrainedModel, ModelLayout]:
    """The model of a config, on the meta device and without what no part runs, and its layout.

    Raises:
        UnsupportedModel: it cannot be cut.
        BadPlan: it has too few layers.
    """
    model = build_on_meta(config)
    layout = inspect_model(model)
    SplitPlan.parse(None, layout.n_layers)
    cache_layer_specs(model.config)
    leave_out(model, layout.unused)
    return model, layout


def _named_dtype(values: dict[str, object]) -> str | None:
    """The dtype that a config, or the text part in it, names."""
    for section in (values, values.get("text_config"), values.get("decoder")):
        if isinstance(section, dict):
            named = section.get("dtype") or section.get("torch_dtype")
            if isinstance(named, str):
                return named
    return None


def _commonest_dtype(reading: Reading) -> str:
    """The floating-point dtype that most numbers are stored in."""
    counts: Counter[torch.dtype] = Counter()
    for conversion in reading.conversions:
        for _, stored in conversion.inputs:
            if stored.dtype.is_floating_point:
                counts[stored.dtype] += torch.Size(stored.shape).numel()
    return str(counts.most_common(1)[0][0]).removeprefix("torch.")
