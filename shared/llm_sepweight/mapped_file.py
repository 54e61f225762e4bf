"""Reads one file: compares it with its manifest entry, and maps its tensors."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from llm_sepweight.containment import refuse_stray
from llm_sepweight.errors import (
    CorruptFileError,
    MissingFileError,
    WrongDigestError,
    WrongSizeError,
)
from llm_sepweight.manifest import FileEntry

_CHUNK_BYTES = 4 * 2**20


def checked_path(directory: Path, entry: FileEntry) -> Path:
    """The path of an entry's file. Raises MissingFileError, StrayFileError or WrongSizeError."""
    path = directory / entry.file
    if not path.is_file():
        raise MissingFileError(path, entry.size)
    refuse_stray(path)
    found = path.stat().st_size
    if found != entry.size:
        raise WrongSizeError(path, entry.size, found)
    return path


def checked_chunks(
    directory: Path, entry: FileEntry, progress: Callable[[int], None] | None = None
) -> Iterator[memoryview]:
    """The bytes of an entry's file in chunks. The digest is compared after the last one.

    A chunk is valid until the next one is requested.

    Raises MissingFileError, StrayFileError, WrongSizeError, WrongDigestError.
    """
    path = checked_path(directory, entry)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            yield buffer[:count]
            if progress is not None:
                progress(count)
    if digest.hexdigest() != entry.sha256:
        raise WrongDigestError(path, entry.sha256, digest.hexdigest())


def map_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, backed by a private mapping of it.

    Data is read when first touched; writing to a tensor copies the touched pages and leaves the file unchanged.
    The file must not be shortened while tensors are in use. Raises CorruptFileError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CorruptFileError(path, f"not a safetensors file ({error}): convert the model again") from error
