"""Puts finished files in place: claims the output directory, then replaces whole files only."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llm_sepweight.containment import manifest_text
from llm_sepweight.errors import (
    CannotWriteError,
    InvalidManifestError,
    NoSpaceError,
    OccupiedDirectoryError,
    StrayFileError,
)
from llm_sepweight.layout import MANIFEST_FILE, REPLACED, STAGING_DIRECTORY, TEMPORARY_SUFFIX, is_own_file

# The system's errors for a full disk or quota, and for a file that is too large.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refuse_inside(out_path: Path, source: Path, done: str) -> None:
    """Raise OccupiedDirectoryError if the output is, or lies in, `source`. `done` says what happens to `source`."""
    out, read = out_path.resolve(), source.resolve()
    if out.is_relative_to(read):
        where = "is" if out == read else f"lies in {source},"
        raise OccupiedDirectoryError(f"{out_path} {where} what would be {done}: choose another directory")


@dataclass(frozen=True)
class Claim:
    """An output directory in progress.

    Its files are written to `directory`. If that is not `target` itself, `target` holds a finished model, which
    stays unchanged until the new one is complete; see `replacing`.
    """

    directory: Path
    target: Path
    is_new: bool

    @property
    def replaces(self) -> bool:
        """Whether there is a finished model to replace."""
        return self.directory != self.target

    def abandon(self) -> None:
        """Remove what an unfinished run wrote, and the directory itself if the run created it and nothing else is in
        it."""
        if self.replaces:
            _discard_replacements(self.target)
            return
        for file in sorted(self.directory.iterdir()):
            if is_own_file(file.name):
                file.unlink()
        if self.is_new and not any(self.directory.iterdir()):
            self.directory.rmdir()


def claim_directory(out_path: Path, *, overwrite: bool, needed: int = 0) -> Claim:
    """Provide an empty weight directory to write to, at or for `out_path`. Files that are not of this format stay.

    Leftovers of a killed run are removed. A finished model stays until it is replaced.

    Args:
        overwrite: whether a finished model may be replaced.
        needed: bytes that will be written.

    Raises OccupiedDirectoryError if it is a file, holds a finished model, or another program's manifest;
    NoSpaceError.
    """
    if out_path.exists() and not out_path.is_dir():
        raise OccupiedDirectoryError(f"{out_path} is a file: choose a directory for the weights")
    manifest = out_path / MANIFEST_FILE
    if manifest.exists():
        _check_replaceable(manifest, overwrite)
        return stage(out_path, needed)
    own = [file for file in sorted(out_path.iterdir()) if is_own_file(file.name)] if out_path.is_dir() else []
    _check_room(out_path, needed - sum(file.lstat().st_size for file in own))
    is_new = not out_path.exists()
    out_path.mkdir(parents=True, exist_ok=True)
    _discard_replacements(out_path)
    for file in own:
        file.unlink(missing_ok=True)
    return Claim(out_path, out_path, is_new)


def stage(finished: Path, needed: int = 0) -> Claim:
    """Provide an empty directory for the replacement of a finished model, and remove those that killed runs left.

    Raises NoSpaceError.
    """
    _discard_replacements(finished)
    discard_temporary_files(finished)
    _check_room(finished, needed)
    staging = finished / STAGING_DIRECTORY
    staging.mkdir()
    return Claim(staging, finished, is_new=False)


def replaced_path(directory: Path) -> Path:
    """The path beside a (resolved) directory that is used while the directory is replaced."""
    return directory.with_name(REPLACED.format(directory.name))


def _discard_replacements(directory: Path) -> None:
    for leftover in (directory / STAGING_DIRECTORY, replaced_path(directory.resolve())):
        if leftover.is_dir():
            shutil.rmtree(leftover)


def _check_room(out_path: Path, needed: int) -> None:
    existing = next(path for path in (out_path.absolute(), *out_path.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise NoSpaceError(out_path, needed, free)


def discard_temporary_files(directory: Path) -> None:
    """Remove the files that a killed run left half-written in a finished directory."""
    for file in sorted(directory.glob(f"*{TEMPORARY_SUFFIX}")):
        if is_own_file(file.name):
            file.unlink()


def withdraw_manifest(directory: Path) -> None:
    """Remove the manifest durably: from then on, the directory does not load."""
    (directory / MANIFEST_FILE).unlink()
    sync_directory(directory)


def temporary(file: Path) -> Path:
    """The path where a file is written before `publish`."""
    return file.with_name(file.name + TEMPORARY_SUFFIX)


@contextmanager
def synced_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that is durable when the block ends, and removed if the block fails.

    Raises CannotWriteError if the disk is full or the file is too large for it.
    """
    finished = False
    try:
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        finished = True
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise CannotWriteError(path, os.strerror(error.errno)) from error
        raise
    finally:
        if not finished:
            path.unlink(missing_ok=True)


def publish(file: Path) -> None:
    """Move the temporary twin of `file` into place, durably. Its bytes must be synced already."""
    temporary(file).replace(file)
    sync_directory(file.parent)


def _check_replaceable(manifest: Path, overwrite: bool) -> None:
    if not _is_own_manifest(manifest):
        raise OccupiedDirectoryError(
            f"{manifest} was not made by this package and would be lost: choose another directory"
        )
    if not overwrite:
        raise OccupiedDirectoryError(
            f"{manifest.parent} already holds a finished model: choose another directory, or overwrite it (--overwrite)"
        )


def _is_own_manifest(manifest: Path) -> bool:
    try:
        content = json.loads(manifest_text(manifest))
    except (ValueError, RecursionError, InvalidManifestError, StrayFileError):
        return False
    return isinstance(content, dict) and {"format_version", "files"} <= content.keys()


def sync_directory(directory: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
