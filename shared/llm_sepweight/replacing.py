"""Replaces a finished directory with another. Readers see the old one whole or the new one whole, even after a kill."""

import ctypes
import os
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from llm_sepweight.layout import MANIFEST_FILE, STAGING_DIRECTORY, is_own_file
from llm_sepweight.publishing import replaced_path, sync_directory, withdraw_manifest

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_directory(
    staging: Path, directory: Path, *, keep: Collection[str] = (), drop: Collection[str] = ()
) -> None:
    """Replace `directory` with the finished directory `staging`, which lies in it, and remove the old content.

    The two are swapped in one step if the system can do that (Linux, unless `directory` is a mount point).
    Otherwise the files are moved one by one, and a run that is killed meanwhile leaves a directory without a manifest.

    Args:
        staging: must be synced.
        directory: a finished model. Files in it that are not of this format stay.
        keep: names of the format's own files that stay too, unless `staging` has a file of that name.
        drop: names, relative to `directory`, of files that are not of this format and do not stay.
    """
    directory = directory.resolve()
    outside = replaced_path(directory)
    # the system cannot swap a directory with one that lies in it
    try:
        (directory / staging.name).rename(outside)
    except OSError:
        _move_files(directory / staging.name, directory, keep, drop)
        return
    _bring_along(directory, outside, keep, drop)
    if _exchange(outside, directory):
        sync_directory(directory.parent)
    else:
        _move_files(outside, directory, keep, drop)
    # the next run removes what cannot be removed now
    shutil.rmtree(outside, ignore_errors=True)


def _bring_along(old: Path, new: Path, keep: Collection[str], drop: Collection[str]) -> None:
    """Link the files that stay from the old directory into the new one."""
    staying = [path for path in sorted(old.iterdir()) if _stays(path.name, keep)]
    for path in [each for top in staying for each in (top, *sorted(_inside(top)))]:
        name = path.relative_to(old)
        if _is_folder(path):
            (new / name).mkdir(exist_ok=True)
        elif name.as_posix() not in drop and not os.path.lexists(new / name):
            _link(path, new / name)
    shutil.copymode(old, new)
    sync_directory(new)


def _inside(path: Path) -> Iterable[Path]:
    return path.rglob("*") if _is_folder(path) else ()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _stays(name: str, keep: Collection[str]) -> bool:
    return name in keep or not (is_own_file(name) or name == STAGING_DIRECTORY)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target, follow_symlinks=False)
    except OSError:
        # some file systems have no hard links
        shutil.copy2(file, target, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step; False if the system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return renameat2 is not None and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def _move_files(staging: Path, directory: Path, keep: Collection[str], drop: Collection[str]) -> None:
    withdraw_manifest(directory)
    new = {path.relative_to(staging).as_posix() for path in _inside(staging) if not _is_folder(path)}
    old = [path.name for path in directory.iterdir() if is_own_file(path.name) and path.name not in keep]
    for name in {*old, *drop} - new:
        (directory / name).unlink(missing_ok=True)
    for name in sorted(new, key=lambda name: (name == MANIFEST_FILE, name)):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(directory / name)
    sync_directory(directory)
    shutil.rmtree(staging, ignore_errors=True)
