"""Writes private keys and certificates so that no reader sees half a file, and nobody else sees a key."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

KEY_MODE = 0o600
CERTIFICATE_MODE = 0o644


def write_whole(path: Path, content: bytes, mode: int, *, replace: bool) -> None:
    """The file appears with all of its content, or not at all; it is durable on return.

    Args:
        mode: the file's permissions, whatever the umask is.
        replace: whether a file that is there may be replaced.

    Raises:
        FileExistsError: it is there, and may not be.
    """
    # mkstemp's file can be read by its owner alone
    descriptor, name = mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        if replace:
            Path(name).replace(path)
        else:
            _link(name, path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
    _sync(path.parent)


def _link(name: str, path: Path) -> None:
    """Unlike a rename, a link replaces nothing."""
    try:
        os.link(name, path)
    except FileExistsError as error:
        # the system names the other file
        raise FileExistsError(error.errno, error.strerror, str(path)) from None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
