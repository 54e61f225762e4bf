"""What a conversion reads: a Hugging Face folder, a model of the hub, or a GGUF file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from splitlearn.checkpoints.folder import (
    check_name,
    checkpoint_name,
    find_checkpoint,
    inside,
    read_config,
    tokenizer_files,
)
from splitlearn.checkpoints.gguf.checkpoint import GgufCheckpoint
from splitlearn.checkpoints.load import resolve_dtype
from splitlearn.checkpoints.quantization.select import find_format, plain_tensors, without_declaration
from splitlearn.checkpoints.quantization.weight import QuantizedFormat
from splitlearn.checkpoints.weight_files import StoredTensor, stored_tensors

_GGUF = ".gguf"


Content = Path | bytes
"""What a file is copied from, or its bytes where it is in no file of its own."""


class OpenedCheckpoint(Protocol):
    """A checkpoint of which config and names are known, and nothing else is read."""

    @property
    def path(self) -> Path:
        """The folder or the file."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def config(self) -> dict[str, Any]:
        """The values of a config.json, without what says that weights are quantised."""

    @property
    def dtype(self) -> str | None:
        """What floating-point tensors are to be stored in, by torch's name; None if nothing says so."""

    def tensors(self) -> Mapping[str, StoredTensor]:
        """Those of the checkpoint, dequantised when they are read. Raises BadCheckpoint, UnsupportedModel."""

    def tokenizer(self) -> dict[str, Content]:
        """The tokenizer's files, by name. Raises BadCheckpoint."""


def is_gguf(source: str) -> bool:
    """Whether a source is a GGUF file, by its name. One that is not there is none."""
    return source.lower().endswith(_GGUF) and os.path.isfile(source)  # noqa: PTH113 (Path.is_file raises for odd names)


def open_source(
    source: str, dtype: str | None, name: str | None, stored: Mapping[str, StoredTensor] | None = None
) -> OpenedCheckpoint:
    """Opens a folder, a model of the hub, or a GGUF file.

    Args:
        dtype: what floating-point tensors are to be stored in; None for what the checkpoint says.
        name: what the model is called; None takes the last part of `source`.
        stored: the tensors of a folder that does not hold them.

    Raises:
        BadCheckpoint: no such source, or files that are not what they should be.
        UnsupportedModel: weights that are quantised in a way that is not covered.
        BadDevice: a dtype that no model is run in.
    """
    return _open_gguf(source, dtype, name) if is_gguf(source) else _open_folder(source, dtype, name, stored)


def _open_folder(
    source: str, dtype: str | None, name: str | None, stored: Mapping[str, StoredTensor] | None
) -> "_Folder":
    folder = find_checkpoint(source)
    values = read_config(folder)
    form = find_format(source, values, folder)
    config = without_declaration(values)
    dtype = dtype or _named_dtype(config)
    target = None if dtype is None else resolve_dtype(dtype)
    called = check_name(name) if name else checkpoint_name(source, folder)
    return _Folder(folder, called, config, dtype, source, form, target, stored)


@dataclass(frozen=True)
class _Folder:
    path: Path
    name: str
    config: dict[str, Any]
    dtype: str | None
    source: str
    form: QuantizedFormat | None
    target: torch.dtype | None
    stored: Mapping[str, StoredTensor] | None

    def tensors(self) -> Mapping[str, StoredTensor]:
        stored = stored_tensors(self.path) if self.stored is None else self.stored
        return stored if self.form is None else plain_tensors(self.source, self.form, stored, self.target)

    def tokenizer(self) -> dict[str, Content]:
        return {name: inside(self.path, name) for name in tokenizer_files(self.path)}


def _open_gguf(source: str, dtype: str | None, name: str | None) -> "_Gguf":
    path = Path(source)
    target = None if dtype is None else resolve_dtype(dtype)
    called = check_name(name or path.stem)
    opened = GgufCheckpoint(path)
    return _Gguf(path, called, opened.config(), dtype, opened, target)


@dataclass(frozen=True)
class _Gguf:
    path: Path
    name: str
    config: dict[str, Any]
    dtype: str | None
    opened: GgufCheckpoint
    target: torch.dtype | None

    def tensors(self) -> Mapping[str, StoredTensor]:
        return self.opened.tensors(self.target)

    def tokenizer(self) -> dict[str, Content]:
        return dict(self.opened.tokenizer())


def _named_dtype(values: Mapping[str, Any]) -> str | None:
    """The dtype that a config, or the text part in it, names."""
    for section in (values, values.get("text_config"), values.get("decoder")):
        if isinstance(section, dict):
            named = section.get("dtype") or section.get("torch_dtype")
            if isinstance(named, str):
                return named
    return None
