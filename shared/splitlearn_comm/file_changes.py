"""Whether a file is another one than last time, without reading it."""

from __future__ import annotations

from pathlib import Path

# What tells one content of a file from another: device, inode, size, and the time of the last change in ns.
FileIdentity = tuple[int, int, int, int]


def identity_of(path: Path) -> FileIdentity | None:
    """None if there is no such file now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
