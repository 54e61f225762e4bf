"""Hugging Face checkpoint -> sepweight directory, one tensor at a time."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import PreTrainedModel

from llm_sepweight import Manifest, SepweightWriter, TensorSource
from llm_sepweight.layout import section_name
from splitlearn.anatomy import Anatomy, build_on_meta, config_from_dict, leave_out, storage_dtype, study
from splitlearn.cache import entry_kinds
from splitlearn.checkpoint import Recipe, recipes
from splitlearn.errors import BadCheckpoint, UnsupportedModel
from splitlearn.loading import resolve_dtype

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_SIDE_FILES = ["config.json", "*.index.json", *TOKENIZER_FILES]


@dataclass(frozen=True)
class Conversion:
    """Everything decided, nothing written: what `prepare` found out about a checkpoint."""

    source: Path
    model_name: str
    model: PreTrainedModel
    anatomy: Anatomy
    sections: dict[str, list[TensorSource]]
    tied: dict[str, str]
    dtype: str
    config: dict[str, object]

    @property
    def total_bytes(self) -> int:
        """Bytes of tensor data that `write` will put out; the files' headers come on top."""
        return sum(
            torch.Size(t.shape).numel() * t.dtype.itemsize for tensors in self.sections.values() for t in tensors
        )

    def write(self, out: Path, *, overwrite: bool = False, progress: Callable[[int], None] | None = None) -> Manifest:
        """Writes the directory; the manifest comes last, so that an interrupted run leaves nothing that loads.

        Args:
            out: the directory to make; finished ones are refused unless `overwrite`.
            progress: told the number of bytes each time some have gone out.

        Raises:
            SepweightError: `out` is a finished directory already, or cannot be written.
        """
        writer = SepweightWriter(out, overwrite=overwrite)
        for section, tensors in self.sections.items():
            writer.write_section(section, tensors, progress)
        for name in TOKENIZER_FILES:
            if (self.source / name).exists():
                shutil.copyfile(self.source / name, out / name)
        return writer.commit(
            model_name=self.model_name,
            config=self.config,
            dtype=self.dtype,
            n_layers=self.anatomy.n_layers,
            tied=self.tied,
        )


def prepare(source: str, *, dtype: str | None = None, name: str | None = None) -> Conversion:
    """Reads config and headers of a checkpoint and decides which tensor goes where.

    Args:
        source: a local folder, or the id of a model on the Hugging Face hub (from the cache when offline).
        dtype: store floating-point tensors in this dtype; None keeps the checkpoint's.
        name: what the model is called from now on; None takes the last part of `source`.

    Raises:
        BadCheckpoint: no such folder or model, or tensors missing or of the wrong shape.
        UnsupportedModel: the architecture cannot be cut, with the reason.
    """
    folder = find_checkpoint(source)
    values = read_config(folder)
    if values.get("quantization_config"):
        raise UnsupportedModel(f"{source} holds quantised weights; convert the checkpoint that they were made from")
    config = config_from_dict(values)
    model = build_on_meta(config)
    anatomy = study(model)
    entry_kinds(config)
    leave_out(model, anatomy.unused)
    outlines = [(recipe, recipe.outline(model)) for recipe in recipes(folder, model)]
    made = {key: recipe for recipe, outline in outlines for key in outline}
    tied = _tied(model, made)
    for target, stored in tied.items():
        if stored not in made and target in made:
            made[stored] = made[target]
    wanted = {key: t for key, t in model.state_dict(keep_vars=True).items() if key not in tied}
    missing = sorted(wanted.keys() - made.keys())
    if missing:
        raise BadCheckpoint(f"{folder} lacks {len(missing)} tensors of the model, the first is {missing[0]}")
    for key, outline in ((key, t) for _, tensors in outlines for key, t in tensors.items() if key in wanted):
        if outline.shape != wanted[key].shape:
            raise BadCheckpoint(
                f"{key} should have the shape {list(wanted[key].shape)}, found {list(outline.shape)}; "
                "config.json and weights are of different models"
            )
    target_dtype = dtype or _own_dtype(values, made, model)
    return Conversion(
        source=folder,
        model_name=name or (folder.resolve() if Path(source).is_dir() else Path(source)).name,
        model=model,
        anatomy=anatomy,
        sections=_sections(anatomy, wanted, made, model, resolve_dtype(target_dtype)),
        tied={_place_name(anatomy, a): _place_name(anatomy, b) for a, b in tied.items()},
        dtype=target_dtype,
        config={**values, "model_type": config.model_type},
    )


def _sections(
    anatomy: Anatomy,
    wanted: dict[str, torch.Tensor],
    made: dict[str, Recipe],
    model: PreTrainedModel,
    dtype: torch.dtype,
) -> dict[str, list[TensorSource]]:
    sections: dict[str, list[TensorSource]] = {
        name: [] for name in ("begin", *(section_name(i) for i in range(anatomy.n_layers)), "end")
    }
    kitchen = _Kitchen(model)
    for key, empty in wanted.items():
        section, layer, name = anatomy.place(key)
        kind = storage_dtype(model, key, empty.dtype, dtype)
        source = TensorSource(name, kind, tuple(empty.shape), kitchen.reader(made[key], key))
        sections[section if layer is None else section_name(layer)].append(source)
    return sections


class _Kitchen:
    """Cooks recipes; keeps only the last result, for recipes that make several tensors in a row."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._last: tuple[Recipe, dict[str, torch.Tensor]] | None = None

    def reader(self, recipe: Recipe, key: str) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            if self._last is None or self._last[0] is not recipe:
                self._last = None
                self._last = (recipe, recipe.cook(self._model))
            cooked = self._last[1]
            # a tied tensor may be made under the other of its two names
            return cooked[key] if key in cooked else next(iter(cooked.values()))

        return read


def find_checkpoint(source: str) -> Path:
    """The local folder `source`, or that of the model with this id, downloaded if need be.

    Raises:
        BadCheckpoint: neither is to be had.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    try:
        downloaded = Path(snapshot_download(source, allow_patterns=[*_SIDE_FILES, "*.safetensors"]))
        if any(downloaded.glob("*.safetensors")):
            return downloaded
        return Path(snapshot_download(source, allow_patterns=[*_SIDE_FILES, "pytorch_model*.bin"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadCheckpoint(
            f"{source!r} is neither a local folder nor a model that could be had from the hub: {reason}"
        ) from error


def read_config(folder: Path) -> dict[str, object]:
    """The folder's config.json.

    Raises:
        BadCheckpoint: it is missing, or not a JSON object.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{folder} has no config.json; it is not a Hugging Face checkpoint") from error
    except json.JSONDecodeError as error:
        raise BadCheckpoint(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadCheckpoint(f"{folder / 'config.json'} should hold an object, found {type(values).__name__}")
    return values


def _own_dtype(values: dict[str, object], made: dict[str, Recipe], model: PreTrainedModel) -> str:
    named = values.get("dtype", values.get("torch_dtype"))
    if isinstance(named, str) and named != "auto":
        return named
    outline = next(iter(made.values())).outline(model)
    return str(next(iter(outline.values())).dtype).removeprefix("torch.")


def _tied(model: PreTrainedModel, made: dict[str, Recipe]) -> dict[str, str]:
    """The pairs that share one tensor. As in transformers, two that are stored and differ are not tied."""

    def differ(target: str, stored: str) -> bool:
        if target not in made or stored not in made:
            return False
        return not torch.equal(made[target].cook(model)[target], made[stored].cook(model)[stored])

    kept = model.state_dict(keep_vars=True)
    pairs = [pair for pair in model.all_tied_weights_keys.items() if pair[0] in kept and pair[1] in kept]
    return {target: stored for target, stored in pairs if not differ(target, stored)}


def _place_name(anatomy: Anatomy, key: str) -> str:
    section, layer, name = anatomy.place(key)
    return f"{section if layer is None else section_name(layer)}/{name}"
