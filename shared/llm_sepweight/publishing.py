"""Putting finished files in place: claim the output directory, then replace whole files only."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llm_sepweight.errors import OccupiedDirectoryError
from llm_sepweight.layout import MANIFEST_FILE, TEMPORARY_SUFFIX, is_own_file


def claim_directory(out_path: Path, *, overwrite: bool) -> None:
    """Make `out_path` an empty weight directory that keeps the files of others.

    Leftovers of a killed run are removed. With `overwrite` a finished model is removed too, manifest first,
    so that no moment exists at which a manifest describes files that are gone.

    Raises OccupiedDirectoryError if it is a file, holds a finished model, or a manifest of something else.
    """
    if out_path.exists() and not out_path.is_dir():
        raise OccupiedDirectoryError(f"{out_path} is a file: choose a directory for the weights")
    out_path.mkdir(parents=True, exist_ok=True)
    manifest = out_path / MANIFEST_FILE
    if manifest.exists():
        _check_replaceable(manifest, overwrite)
        withdraw_manifest(out_path)
    for file in sorted(out_path.iterdir()):
        if is_own_file(file.name):
            file.unlink()


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
    """A new file that is on the disk when the block ends, and gone if the block fails."""
    finished = False
    try:
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        finished = True
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
