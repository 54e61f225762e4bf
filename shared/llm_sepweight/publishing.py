"""Putting finished files in place: claim the output directory, then replace whole files only."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llm_sepweight.errors import CannotWriteError, NoSpaceError, OccupiedDirectoryError
from llm_sepweight.layout import MANIFEST_FILE, TEMPORARY_SUFFIX, is_own_file

# What the system says when a disk or a quota is full, or a file too large.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refuse_inside(out_path: Path, source: Path, done: str) -> None:
    """Raise OccupiedDirectoryError if the output is the directory `source`, which is to be `done`, or lies in it."""
    out, read = out_path.resolve(), source.resolve()
    if out.is_relative_to(read):
        where = "is" if out == read else f"lies in {source},"
        raise OccupiedDirectoryError(f"{out_path} {where} what would be {done}: choose another directory")


def claim_directory(out_path: Path, *, overwrite: bool, needed: int = 0) -> bool:
    """Make `out_path` an empty weight directory that keeps the files of others. Returns whether it was not there.

    Leftovers of a killed run are removed. With `overwrite` a finished model is removed too, manifest first,
    so that no moment exists at which a manifest describes files that are gone. Whatever is refused is refused
    before anything is removed.

    Args:
        overwrite: whether a finished model may be replaced.
        needed: bytes that will be written.

    Raises OccupiedDirectoryError if it is a file, holds a finished model, or a manifest of something else;
    NoSpaceError.
    """
    if out_path.exists() and not out_path.is_dir():
        raise OccupiedDirectoryError(f"{out_path} is a file: choose a directory for the weights")
    manifest = out_path / MANIFEST_FILE
    if manifest.exists():
        _check_replaceable(manifest, overwrite)
    own = [file for file in sorted(out_path.iterdir()) if is_own_file(file.name)] if out_path.is_dir() else []
    _check_room(out_path, needed - sum(file.lstat().st_size for file in own))
    is_new = not out_path.exists()
    out_path.mkdir(parents=True, exist_ok=True)
    if manifest.exists():
        withdraw_manifest(out_path)
    for file in own:
        file.unlink(missing_ok=True)
    return is_new


def _check_room(out_path: Path, needed: int) -> None:
    existing = next(path for path in (out_path.absolute(), *out_path.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise NoSpaceError(out_path, needed, free)


def abandon_directory(directory: Path, *, was_made: bool) -> None:
    """Remove what an unfinished run wrote, and the directory itself where the run made it and nothing else is in it."""
    for file in sorted(directory.iterdir()):
        if is_own_file(file.name):
            file.unlink()
    if was_made and not any(directory.iterdir()):
        directory.rmdir()


def discard_temporary_files(directory: Path) -> None:
    """Remove what a killed run left half-written in a finished directory."""
    for file in sorted(directory.glob(f"*{TEMPORARY_SUFFIX}")):
        if is_own_file(file.name):
            file.unlink()


def withdraw_manifest(directory: Path) -> None:
    """Remove the manifest durably: from here on the directory does not load."""
    (directory / MANIFEST_FILE).unlink()
    _sync_directory(directory)


def temporary(file: Path) -> Path:
    """Where a file is written before `publish`."""
    return file.with_name(file.name + TEMPORARY_SUFFIX)


@contextmanager
def synced_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends, and gone if the block fails.

    Raises CannotWriteError if the disk is full, or the file too large for it.
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
    """Move the temporary twin of `file` in place, durably. Its bytes must have been synced before."""
    temporary(file).replace(file)
    _sync_directory(file.parent)


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
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"format_version", "files"} <= content.keys()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
