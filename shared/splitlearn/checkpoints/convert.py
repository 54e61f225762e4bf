"""Hugging Face checkpoint -> sepweight directory, one tensor at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from llm_sepweight import Manifest, SepweightWriter, TensorSource
from llm_sepweight.tensor_file import file_size
from splitlearn.checkpoints.folder import refuse_checkpoint, shorten, tokenizer_names
from splitlearn.checkpoints.load import resolve_dtype
from splitlearn.checkpoints.opening import Content, OpenedCheckpoint, open_source
from splitlearn.checkpoints.own_ends import check_shape, shared_layers
from splitlearn.checkpoints.plan import CheckpointPlan, lacking, plan_tensors
from splitlearn.checkpoints.quantized import refuse_stored
from splitlearn.checkpoints.reader import Reading, read_checkpoint
from splitlearn.checkpoints.tokenizer_files import has_vocabulary
from splitlearn.checkpoints.vocabulary_lines import maybe_cut_off
from splitlearn.checkpoints.weight_files import StoredTensor, commonest_dtype
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
    tokenizer_files: Mapping[str, Content] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Tensors of the checkpoint that the model has no place for."""
    doubts: tuple[str, ...] = ()
    """What may be wrong with files of the tokenizer, and what to do, in a line each."""
    needs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By section: the tensors of the checkpoint that it is made of."""
    trunk_of: Manifest | None = None
    """The model whose trunk is to serve this one, which differs from it in the ends alone."""
    dequantized: Mapping[str, int] = field(default_factory=dict)
    """By section that has weights of 4 bits: its bytes with numbers in their place."""
    int4_notes: tuple[str, ...] = ()
    """Which weights are kept in 4 bits, and which are not, in a line each."""

    @property
    def total_bytes(self) -> int:
        """Bytes that `write` will put out for the sections, headers included."""
        return sum(file_size(tensors) for tensors in self.sections.values())

    def notes(self) -> list[str]:
        """What its user should know, in a line each: which tensors are left out, of many alike one, and the doubts."""
        if not self.left_out:
            return [*self.int4_notes, *self.doubts]
        count = f"{len(self.left_out)} tensor{'s' if len(self.left_out) > 1 else ''}"
        left_out = f"left out {count} that the model has no place for: {shorten(self.left_out)}"
        return [left_out, *self.int4_notes, *self.doubts]

    def write(self, out: Path, *, overwrite: bool = False, progress: Callable[[int], None] | None = None) -> Manifest:
        """Writes the directory; the manifest comes last, so that an interrupted run leaves nothing that loads.

        If it fails, what it wrote is removed; a finished model that is to be replaced stays whole until then.

        Args:
            out: the directory to make; finished ones are refused unless `overwrite`.
            progress: told the number of bytes each time some have gone out.

        Raises:
            SepweightError: `out` is a finished directory already, lies in the checkpoint's folder, has too little
                room, or cannot be written.
            BadCheckpoint: no layer is one of `trunk_of`, or `out` holds a checkpoint and `overwrite` is not given.
        """
        if not overwrite:
            refuse_checkpoint(out)
        beside = sum(_size(content) for content in self.tokenizer_files.values())
        with SepweightWriter(out, overwrite=overwrite, source=self.source, needed=self.total_bytes + beside) as writer:
            files = {name: writer.write_section(name, tensors, progress) for name, tensors in self.sections.items()}
            if self.trunk_of is not None:
                shared_layers(files, self.trunk_of)
            if overwrite and has_vocabulary(self.tokenizer_files):
                # what another model left there would be read with this one's
                writer.drop(set(tokenizer_names(out)) - set(self.tokenizer_files))
            for name, content in self.tokenizer_files.items():
                writer.write_beside(content, name)
            return writer.commit(
                model_name=self.model_name,
                config=self.config,
                dtype=self.dtype,
                n_layers=self.n_layers,
                tied=self.tied,
                dequantized=self.dequantized,
            )


def prepare(
    source: str,
    *,
    dtype: str | None = None,
    name: str | None = None,
    stored: Mapping[str, StoredTensor] | None = None,
    trunk_of: Manifest | None = None,
    keep_int4: bool = False,
) -> Conversion:
    """Reads config and headers of a checkpoint and decides which tensor goes where.

    Weights that are quantised in a format of `splitlearn.checkpoints.quantization` are dequantised when they are read.

    Args:
        source: a local folder, the id of a model on the Hugging Face hub (from the cache when offline), or a GGUF file.
        dtype: store floating-point tensors in this dtype; None keeps the checkpoint's, which is what its config
            names, or else what most of its numbers are stored in.
        name: what the model is called from now on; None takes the last part of `source`.
        stored: the checkpoint's tensors where they are not in its folder; none is read before its section is written.
        trunk_of: the model whose trunk is to serve this one, whose ends were trained again. The result has its name,
            its config and its dtype, whatever `name` and `dtype` say.
        keep_int4: store the weights of linear layers that are levels of 4 bits in groups of inputs as these, if
            `splitlearn.checkpoints.int4` has a place for what they are. Their scales and zeros are read at once.

    Raises:
        BadCheckpoint: no such folder or model, files that are not what they should be or lie outside the folder, or
            tensors missing or of the wrong shape, or another config than that of `trunk_of`.
        UnsupportedModel: the architecture cannot be cut, or the weights are quantised in a way that is not covered,
            with the reason.
        BadPlan: the model has too few layers to be cut.
        BadDevice: a dtype that no model is run in.
    """
    opened = _open(source, dtype, name, stored, trunk_of)
    config = config_from_dict(opened.config)
    model, layout = _inspect(config)
    reading = read_checkpoint(opened.tensors(), model)
    refuse_stored(source, reading.used(model.state_dict(keep_vars=True)), reading.left_out, lacking(model, reading))
    plan = plan_tensors(model, layout, reading, at_hand=stored is None)
    plan.check(opened.path, reading)
    target_dtype = opened.dtype or _commonest_dtype(reading)
    tokenizer_files = opened.tokenizer()
    sections, sizes, int4_notes = _sections(plan, resolve_dtype(target_dtype), keep_int4=keep_int4)
    return Conversion(
        source=opened.path,
        model_name=opened.name,
        n_layers=layout.n_layers,
        sections=sections,
        tied=plan.tied_places,
        dtype=target_dtype,
        config={**opened.config, "model_type": config.model_type} if trunk_of is None else trunk_of.config,
        tokenizer_files=tokenizer_files,
        left_out=tuple(tensor.key for tensor in reading.left_out),
        doubts=tuple(maybe_cut_off(tokenizer_files, model.get_input_embeddings().weight.shape[0])),
        needs=plan.needs(),
        trunk_of=trunk_of,
        dequantized=sizes,
        int4_notes=int4_notes,
    )


def _open(
    source: str,
    dtype: str | None,
    name: str | None,
    stored: Mapping[str, StoredTensor] | None,
    trunk_of: Manifest | None,
) -> OpenedCheckpoint:
    """Raises BadCheckpoint: the config is not that of `trunk_of`."""
    if trunk_of is None:
        return open_source(source, dtype, name, stored)
    opened = open_source(source, trunk_of.dtype, trunk_of.model_name, stored)
    check_shape(source, opened.config, trunk_of)
    return opened


def _sections(
    plan: CheckpointPlan, dtype: torch.dtype, *, keep_int4: bool
) -> tuple[dict[str, list[TensorSource]], dict[str, int], tuple[str, ...]]:
    """`sections`, `dequantized` and `int4_notes` of a conversion."""
    numbers = plan.sections(dtype)
    if not keep_int4:
        return numbers, {}, ()
    kept, dequantized = plan.keep_int4()
    sections = plan.sections(dtype, kept)
    sizes = {name: file_size(numbers[name]) for name in sections if len(sections[name]) != len(numbers[name])}
    return sections, sizes, tuple(_int4_notes(kept, dequantized))


def _int4_notes(kept: Collection[str], dequantized: Mapping[str, Collection[str]]) -> Iterator[str]:
    if not kept and not dequantized:
        yield "keeps nothing in 4 bits: the checkpoint has no weights of 4 bits in groups of inputs"
    elif kept:
        yield f"keeps {_weights(kept)} in 4 bits"
    for reason, keys in dequantized.items():
        yield f"dequantised {_weights(keys)} of 4 bits, as {reason}: {shorten(tuple(keys))}"


def _weights(keys: Collection[str]) -> str:
    return f"{len(keys)} weight{'s' if len(keys) > 1 else ''}"


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


def _commonest_dtype(reading: Reading) -> str:
    """The floating-point dtype that most numbers of the model are stored in."""
    used = (stored for conversion in reading.conversions for _, stored in conversion.inputs)
    return str(commonest_dtype(used) or torch.float32).removeprefix("torch.")


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
