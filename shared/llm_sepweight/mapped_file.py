"""Reading one file: compare it with its manifest entry, map safetensors, open legacy pickles safely."""

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llm_sepweight.containment import refuse_stray
from llm_sepweight.errors import (
    CorruptFileError,
    MissingFileError,
    UntrustedPickle,
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
    """The bytes of an entry's file; after the last of them the digest is compared.

    A chunk is valid until the next one is asked for.

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

    Nothing is read before it is touched; writing to a tensor copies the touched pages and leaves the file
    alone. The file must not be shortened while tensors are in use. Raises CorruptFileError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CorruptFileError(path, f"no safetensors file ({error}): convert the model again") from error


def open_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `torch.save` file, read weights-only, and mapped where its format allows it.

    Raises UntrustedPickle if it names anything but tensors, CorruptFileError if it is no state dict.
    """
    content = _unpickled(path)
    tensors = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    )
    if not tensors:
        raise CorruptFileError(path, "holds something else than a dict of names and tensors")
    return dict(content)


def open_pickled_tensor(path: Path) -> torch.Tensor:
    """The one tensor of a `torch.save` file, read as `open_pickle` does. Raises what it raises."""
    content = _unpickled(path)
    if not isinstance(content, torch.Tensor):
        raise CorruptFileError(path, "holds something else than one tensor")
    return content


def _unpickled(path: Path) -> Any:
    is_zip = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise UntrustedPickle(path, _unsafe_names(path) if is_zip else []) from error
    except (RuntimeError, EOFError) as error:
        raise CorruptFileError(path, f"no torch file ({error})") from error


def _unsafe_names(path: Path) -> list[str]:
    """What a refused pickle names besides tensors, found without running it."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except pickle.UnpicklingError:
        # the pickle uses an operation that the reader does not even know, so it names nothing
        return []
