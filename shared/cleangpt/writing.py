"""Writes files and folders so that a full disk or a kill leaves what was there before."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cleangpt.errors import NotWrittenError, UsageError
from llm_sepweight.layout import STAGING_DIRECTORY
from llm_sepweight.publishing import sync_directory

# what torch's writer says of the disk is a RuntimeError that names its source file
_OF_TORCH: Final = "inline_container.cc"
# safetensors and tokenizers pass on what Rust says of the system's error, as errors of other classes
_OF_RUST: Final = re.compile(r"(?P<reason>[^:]+?) \(os error \d+\)")
_WEIGHTS: Final = (".safetensors", ".safetensors.index.json")


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
            _sync(partial)
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_figure(figure: Any, file: Path, dpi: int = 130) -> None:
    """Writes a figure of matplotlib in the format of the file's ending; PNG without one.

    Raises UsageError if matplotlib does not write that format, and NotWrittenError.
    """
    kind = file.suffix[1:] or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise UsageError(f"{file}: plots are not written as .{kind}; end the file in .png, .svg or .pdf")
    with replacing(file) as partial:
        figure.savefig(partial, dpi=dpi, format=kind)


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, whose files replace those of the same names when the context ends.

    All are synced to disk first. Then they are moved one by one, weights last: a kill in between leaves the new files
    beside the old weights, or beside none, which nobody takes for a model. Other files in `folder` stay.

    Raises NotWrittenError if one cannot be written; then `folder` is as before and the temporary folder is gone.
    """
    existed, partial = folder.exists(), folder / STAGING_DIRECTORY
    try:
        with named_where_not_written(folder, "what it held before is intact"):
            # what a kill left
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            sync_files(partial)
        with named_where_not_written(folder):
            _move(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def sync_files(folder: Path) -> None:
    """Makes all files below the folder, and their names, durable."""
    for path in (folder, *folder.rglob("*")):
        sync_directory(path) if path.is_dir() else _sync(path)


@contextmanager
def named_where_not_written(place: Path, kept: str = "what it holds is not complete") -> Iterator[None]:
    """Names the file or folder if the disk refuses it. Raises NotWrittenError; other errors stay what they are."""
    try:
        yield
    except Exception as error:
        reason = _reason_of_disk(error)
        if reason is None:
            raise
        raise NotWrittenError(
            f"{place} could not be written ({reason}): {kept}; free space or permit writing there, and start again"
        ) from error


def _move(source: Path, target: Path) -> None:
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for name in sorted(files, key=lambda name: (name.name.endswith(_WEIGHTS), name)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)
    sync_directory(target)


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _reason_of_disk(error: Exception) -> str | None:
    """The system's word for why a file cannot be written; None if the error is not the system's."""
    if isinstance(error, NotWrittenError):
        # of a file inside: its name is a temporary one
        return _strerror_before(error)
    if isinstance(error, OSError):
        return error.strerror or " ".join(str(error).split())
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and _OF_TORCH in text:
        # torch hides the system's error behind one of its own
        return _strerror_before(error) or text
    told = _OF_RUST.search(text)
    return None if told is None else told["reason"].strip()


def _strerror_before(error: BaseException) -> str | None:
    """What the system said in the error that led to this one, if there was one."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        if isinstance(at, OSError) and at.strerror:
            return at.strerror
        seen.append(at)
        at = at.__cause__ or at.__context__
    return None
