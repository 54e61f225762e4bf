"""Chooses the reader of a checkpoint's weights by what its config says, and refuses by name what has none."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from splitlearn.checkpoints.quantization.awq import Awq
from splitlearn.checkpoints.quantization.bitsandbytes import BitsAndBytes
from splitlearn.checkpoints.quantization.compressed_tensors import CompressedTensors
from splitlearn.checkpoints.quantization.declaration import Declaration
from splitlearn.checkpoints.quantization.fp8 import Fp8
from splitlearn.checkpoints.quantization.gptq import Gptq
from splitlearn.checkpoints.quantization.mxfp4 import Mxfp4
from splitlearn.checkpoints.quantization.weight import QuantizedFormat
from splitlearn.checkpoints.quantized import Section, declared_sections, name_of, refuse_declared, unsupported
from splitlearn.checkpoints.weight_files import StoredTensor, commonest_dtype
from splitlearn.errors import BadCheckpoint

_FORMATS: dict[str, Callable[[Declaration], QuantizedFormat]] = {
    "awq": Awq.read,
    "bitsandbytes": BitsAndBytes.read,
    "compressed-tensors": CompressedTensors.read,
    "fp8": Fp8.read,
    "gptq": Gptq.read,
    "mxfp4": Mxfp4.read,
}
# What the formats' own libraries read; "compression_config" and "quantization" are other programs'.
_SECTION = "quantization_config"


def find_format(source: str, values: Mapping[str, Any], folder: Path) -> QuantizedFormat | None:
    """The format of a checkpoint's weights; None if nothing says that they are quantised.

    Args:
        source: what the checkpoint is called in errors.
        values: its config.
        folder: where it lies.

    Raises:
        UnsupportedModel: a format or an option that is not covered, with its name.
        BadCheckpoint: a field of the config is not what it should be.
    """
    sections = declared_sections(values)
    if not sections:
        refuse_declared(source, values, folder)
        return None
    method = _method(sections[0])
    if len(sections) > 1 or sections[0].path[-1] != _SECTION or method not in _FORMATS:
        names = " and ".join(name_of(section.value) for section in sections)
        raise unsupported(source, f"{names}, says config.json")
    return _FORMATS[method](Declaration(source, method, sections[0].value))


def _method(section: Section) -> str:
    if not isinstance(section.value, Mapping):
        return ""
    named = section.value.get("quant_method")
    if named is None:
        # configs of bitsandbytes from before the field
        return name_of(section.value)
    return str(named)


def without_declaration(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config of the weights as they are once they are dequantised."""
    plain = dict(values)
    for section in declared_sections(values):
        inner = plain
        for key in section.path[:-1]:
            inner[key] = dict(inner[key])
            inner = inner[key]
        del inner[section.path[-1]]
    return plain


def plain_tensors(
    source: str, form: QuantizedFormat, stored: Mapping[str, StoredTensor], dtype: torch.dtype | None
) -> dict[str, StoredTensor]:
    """A checkpoint's tensors with each quantised weight as one tensor, which is dequantised when it is read.

    Args:
        source: what the checkpoint is called in errors.
        dtype: of dequantised weights; None for the one that most of the other numbers are stored in.

    Raises:
        BadCheckpoint: no weight is quantised, or one cannot be read as the format's.
    """
    weights = list(form.weights(stored))
    if not weights:
        raise BadCheckpoint(f"{source}: config.json says that weights are quantised ({form.title}), but none are")
    taken = {key for weight in weights for key in weight.keys}
    plain = {key: tensor for key, tensor in stored.items() if key not in taken}
    target = dtype or commonest_dtype(plain.values()) or torch.bfloat16
    for weight in weights:
        if weight.name in plain:
            raise BadCheckpoint(f"{source}: {weight.name} is stored both as codes ({weight.codes.key}) and as numbers")
        plain[weight.name] = weight.plain(target)
    return plain
