"""Tells quantised checkpoints, which would be taken for plain numbers, by what they declare and by what they store."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoints.folder import inside, read_json_object
from splitlearn.checkpoints.weight_files import StoredTensor
from splitlearn.errors import UnsupportedModel

# Where the config, or a section in it, says that weights are quantised; and files beside it that say so.
_SECTIONS = ("quantization_config", "compression_config", "quantization", "quant_config")
_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
# Fields of such a section that name the format, the most telling first.
_NAMES = ("quant_method", "quant_algo", "quant_type", "format", "quant_library", "w_bit", "bits", "num_bits")
_DEEPEST = 8

_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# What stands beside weights that are codes, for the name alone.
_BESIDE = {
    "qzeros": "GPTQ or AWQ",
    "qweight": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "weight_qdata": "torchao",
    "absmax": "bitsandbytes 4-bit",
    "SCB": "bitsandbytes int8",
    "weight_scale_inv": "block-wise fp8",
    "weight_scale_2": "ModelOpt nvfp4",
    "_blocks": "MXFP4",
    "W_q": "HQQ",
    "codebooks": "AQLM",
    "weight_scale": "weights with scales",
}
# What a name adds to that of a weight when it tells how to read the weight's codes.
_DECODES = ("scale", "absmax", "quant", "zero", "SCB", "codebook", "bitmask", "compressed")


def refuse_declared(source: str, values: Mapping[str, Any], folder: Path) -> None:
    """Refuses a checkpoint that says of itself that its weights are quantised.

    Args:
        source: what the checkpoint is called in the error.
        values: its config.
        folder: where it lies.

    Raises:
        UnsupportedModel: it does, with the format's name.
        BadCheckpoint: a file that may say so cannot be read.
    """
    form = _declared_format(values, folder)
    if form is not None:
        raise unsupported(source, form)


def refuse_stored(
    source: str,
    used: Iterable[tuple[str, torch.Tensor, StoredTensor]],
    left_out: Sequence[StoredTensor],
    missing: Sequence[str],
) -> None:
    """Refuses tensors that are codes, or belong to codes, where a model wants numbers.

    Args:
        source: what holds them, for the error.
        used: tensors of the model, by name, and what each is read from.
        left_out: stored tensors that the model has no place for.
        missing: tensors of the model that are not stored.

    Raises:
        UnsupportedModel: with the format as far as it shows.
    """
    form = _stored_format(used, left_out, missing)
    if form is not None:
        raise unsupported(source, form)


def refuse_given(
    source: str, wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], names: Mapping[str, str]
) -> None:
    """`refuse_stored` for tensors that are at hand.

    Args:
        source: what holds them, for the error.
        wanted: the model's, or some of them, by name.
        given: what they are to be filled from.
        names: for those of `wanted` that are given, which of `given` it is.
    """
    stored = {key: StoredTensor.of(key, tensor) for key, tensor in given.items()}
    taken = set(names.values())
    refuse_stored(
        source,
        [(name, wanted[name], stored[key]) for name, key in names.items()],
        [tensor for key, tensor in stored.items() if key not in taken],
        sorted(wanted.keys() - names.keys()),
    )


def unsupported(source: str, form: str) -> UnsupportedModel:
    """The error of quantised weights that are not read.

    Args:
        source: what holds them.
        form: how they are quantised, and what says so.
    """
    return UnsupportedModel(
        f"{source} holds quantised weights ({form}), which are not read; "
        "convert the checkpoint that they were made from"
    )


def _declared_format(values: Mapping[str, Any], folder: Path) -> str | None:
    """What a checkpoint's config, or a file beside it, says of how its weights are quantised; None if nothing."""
    sections = declared_sections(values)
    if sections:
        return f"{name_of(sections[0].value)}, says config.json"
    for name in _FILES:
        if inside(folder, name).is_file():
            values = read_json_object(folder / name)
            # ModelOpt writes the file for a quantised cache too, of a model whose weights are as they were
            inner = values.get("quantization")
            if not isinstance(inner, Mapping) or inner.get("quant_algo"):
                producer = values.get("producer")
                by = f"{producer['name']} " if isinstance(producer, Mapping) and producer.get("name") else ""
                return f"{by}{name_of(inner if isinstance(inner, Mapping) else values)}, says {name}"
    return None


@dataclass(frozen=True)
class Section:
    """What a config says of how weights are quantised: the keys that lead there, and what stands there."""

    path: tuple[str, ...]
    value: Any


def declared_sections(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[Section]:
    """All that a config says of how weights are quantised, at any depth."""
    found = []
    for key, value in values.items():
        if key in _SECTIONS and value:
            found.append(Section((*path, key), value))
        elif isinstance(value, Mapping) and len(path) < _DEEPEST:
            found += declared_sections(value, (*path, key))
    return found


def name_of(section: Any) -> str:
    """The format that such a section names."""
    if not isinstance(section, Mapping):
        return str(section)[:80]
    if section.get("load_in_4bit") or section.get("load_in_8bit"):
        return "bitsandbytes"
    field = next((name for name in _NAMES if section.get(name)), None)
    if field is None:
        return "in an unknown format"
    named = str(section[field])[:80]
    return f"{named} bits" if field.endswith("bit") or field.endswith("bits") else named


def _stored_format(
    used: Iterable[tuple[str, torch.Tensor, StoredTensor]], left_out: Sequence[StoredTensor], missing: Sequence[str]
) -> str | None:
    """How the weights are quantised as far as the files' headers show it; None if they are plain numbers."""
    beside = next((name for part, name in _BESIDE.items() if any(part in tensor.key for tensor in left_out)), "")
    known = f"{beside}: " if beside else ""
    weights = []
    for _, wanted, stored in used:
        if wanted.is_floating_point():
            if stored.dtype not in _PLAIN:
                return f"{known}{stored.key} is stored as {_text(stored.dtype)}"
            weights.append(stored.key)
    codes = [tensor for tensor in left_out if tensor.dtype not in (*_PLAIN, torch.int64, torch.bool)]
    if missing and codes:
        return f"{known}{codes[0].key} is stored as {_text(codes[0].dtype)} in place of {missing[0]}"
    names = set(weights)
    for tensor in left_out:
        weight = next((tensor.key[:end] for end in _ends(tensor.key) if tensor.key[:end] in names), None)
        if weight is not None and any(word in tensor.key[len(weight) :] for word in _DECODES):
            return f"{known}{weight} is to be read with {tensor.key}"
    return None


def _ends(key: str) -> list[int]:
    """Where names may end that this one goes on from, the longest first."""
    return [i for i in range(len(key) - 1, 0, -1) if key[i] in "._"]


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
