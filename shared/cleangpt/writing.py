"""Writes files so that a full disk or a kill leaves the file of before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from cleangpt.errors import NotWrittenError

# torch and safetensors raise these in place of an OSError of the disk
_FAILED: Final = (OSError, RuntimeError, SafetensorError)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary file beside `file`, which replaces it, synced to disk, when the context ends.

    Raises NotWrittenError if it cannot be written; then `file` is as before and the temporary file is gone.
    """
    partial = file.with_name(f"{file.name}.tmp")
    with named_where_not_written(file, "what it held before is intact"):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def named_where_not_written(place: Path, kept: str = "what it holds is not complete") -> Iterator[None]:
    """Names the file or folder if writing it fails. Raises NotWrittenError."""
    try:
        yield
    except _FAILED as error:
        reason = _reason(error)
        raise NotWrittenError(
            f"{place} could not be written ({reason}): {kept}; free space or permit writing there, and start again"
        ) from error


def _reason(error: BaseException) -> str:
    """The system's word for it, which torch hides behind an error of its own."""
    causes: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in causes:
        causes.append(at)
        at = at.__cause__ or at.__context__
    spoken = [each.strerror for each in causes if isinstance(each, OSError) and each.strerror]
    return spoken[0] if spoken else " ".join(str(error).split())
