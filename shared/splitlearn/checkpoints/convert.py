"""Hugging Face checkpoint -> sepweight directory, one tensor at a time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from llm_sepweight import Manifest, SepweightWriter, TensorSource
from llm_sepweight.layout import section_name
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
from splitlearn.checkpoints.quantized import refuse_declared, refuse_stored
from splitlearn.checkpoints.reader import Reading, TensorConversion, read_checkpoint
from splitlearn.checkpoints.tokenizer_files import has_vocabulary
from splitlearn.errors import BadCheckpoint
from splitlearn.model.cache import cache_layer_specs
from splitlearn.model.layout import (
    ModelLayout,
    build_on_meta,
    config_from_dict,
    inspect_model,
    leave_out,
    storage_dtype,
)
from splitlearn.model.plan import SplitPlan


@dataclass(frozen=True)
class Conversion:
    """Everything decided, nothing written: what `prepare` found out about a checkpoint."""

    source: Path
    model_name: str
    model: PreTrainedModel
    layout: ModelLayout
    sections: dict[str, list[TensorSource]]
    tied: dict[str, str]
    dtype: str
    config: dict[str, object]
    tokenizer_files: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Tensors of the checkpoint that the model has no place for."""

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
                n_layers=self.layout.n_layers,
                tied=self.tied,
            )


def prepare(source: str, *, dtype: str | None = None, name: str | None = None) -> Conversion:
    """Reads config and headers of a checkpoint and decides which tensor goes where.

    Args:
        source: a local folder, or the id of a model on the Hugging Face hub (from the cache when offline).
        dtype: store floating-point tensors in this dtype; None keeps the checkpoint's.
        name: what the model is called from now on; None takes the last part of `source`.

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
    target_dtype = dtype or _named_dtype(values)
    if target_dtype is not None:
        resolve_dtype(target_dtype)
    called = check_name(name) if name else checkpoint_name(source, folder)
    config = config_from_dict(values)
    model = build_on_meta(config)
    layout = inspect_model(model)
    SplitPlan.parse(None, layout.n_layers)
    cache_layer_specs(model.config)
    leave_out(model, layout.unused)
    reading = read_checkpoint(folder, model)
    wanted, made, tied = _whole(source, folder, model, reading)
    target_dtype = target_dtype or _commonest_dtype(reading)
    return Conversion(
        source=folder,
        model_name=called,
        model=model,
        layout=layout,
        sections=_sections(layout, wanted, made, model, resolve_dtype(target_dtype)),
        tied={_place_name(layout, a): _place_name(layout, b) for a, b in tied.items()},
        dtype=target_dtype,
        config={**values, "model_type": config.model_type},
        tokenizer_files=tuple(tokenizer_files(folder)),
        left_out=tuple(tensor.key for tensor in reading.left_out),
    )


def _whole(
    source: str, folder: Path, model: PreTrainedModel, reading: Reading
) -> tuple[dict[str, torch.Tensor], dict[str, TensorConversion], dict[str, str]]:
    """The model's tensors without those that are tied to another, a recipe for each, and the ties.

    Raises:
        BadCheckpoint: some are not stored, or in another shape.
        UnsupportedModel: they are stored quantised.
    """
    every = model.state_dict(keep_vars=True)
    targets = {recipe.target for recipe in reading.recipes}
    lacking = sorted(every.keys() - targets - set(model.all_tied_weights_keys))
    refuse_stored(source, reading.used(every), reading.left_out, lacking)
    outlines = [(recipe, recipe.outline(model)) for recipe in reading.recipes]
    made = {key: recipe for recipe, outline in outlines for key in outline}
    tied = _tied(model, made)
    for target, stored in tied.items():
        if stored not in made and target in made:
            made[stored] = made[target]
    wanted = {key: t for key, t in every.items() if key not in tied}
    missing = sorted(wanted.keys() - made.keys())
    if missing:
        unused = [tensor.key for tensor in reading.left_out]
        instead = f"; it holds {shorten(unused)} instead" if unused else ""
        raise BadCheckpoint(f"{folder} lacks {len(missing)} tensors of the model: {shorten(missing)}{instead}")
    for key, outline in ((key, t) for _, tensors in outlines for key, t in tensors.items() if key in wanted):
        if outline.shape != wanted[key].shape:
            raise BadCheckpoint(
                f"{key} should have the shape {list(wanted[key].shape)}, found {list(outline.shape)}; "
                "config.json and weights are of different models"
            )
    return wanted, made, tied


def _sections(
    layout: ModelLayout,
    wanted: dict[str, torch.Tensor],
    made: dict[str, TensorConversion],
    model: PreTrainedModel,
    dtype: torch.dtype,
) -> dict[str, list[TensorSource]]:
    sections: dict[str, list[TensorSource]] = {
        name: [] for name in ("begin", *(section_name(i) for i in range(layout.n_layers)), "end")
    }
    kitchen = _Kitchen(model)
    for key, empty in wanted.items():
        section, layer, name = layout.place(key)
        kind = storage_dtype(model, key, empty.dtype, dtype)
        source = TensorSource(name, kind, tuple(empty.shape), kitchen.reader(made[key], key))
        sections[section if layer is None else section_name(layer)].append(source)
    return sections


class _Kitchen:
    """Cooks recipes; keeps only the last result, for recipes that make several tensors in a row."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._last: tuple[TensorConversion, dict[str, torch.Tensor]] | None = None

    def reader(self, recipe: TensorConversion, key: str) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            if self._last is None or self._last[0] is not recipe:
                self._last = None
                self._last = (recipe, recipe.apply(self._model))
            cooked = self._last[1]
            # a tied tensor may be made under the other of its two names
            return cooked[key] if key in cooked else next(iter(cooked.values()))

        return read


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
    for recipe in reading.recipes:
        for _, stored in recipe.inputs:
            if stored.dtype.is_floating_point:
                counts[stored.dtype] += torch.Size(stored.shape).numel()
    return str(counts.most_common(1)[0][0]).removeprefix("torch.")


def _tied(model: PreTrainedModel, made: dict[str, TensorConversion]) -> dict[str, str]:
    """The pairs that share one tensor. As in transformers, two that are stored and differ are not tied."""

    def differ(target: str, stored: str) -> bool:
        if target not in made or stored not in made:
            return False
        return not torch.equal(made[target].apply(model)[target], made[stored].apply(model)[stored])

    kept = model.state_dict(keep_vars=True)
    pairs = [pair for pair in model.all_tied_weights_keys.items() if pair[0] in kept and pair[1] in kept]
    return {target: stored for target, stored in pairs if not differ(target, stored)}


def _place_name(layout: ModelLayout, key: str) -> str:
    section, layer, name = layout.place(key)
    return f"{section if layer is None else section_name(layer)}/{name}"
