"""Two trainings never write to one folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cleangpt.errors import FolderInUseError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder, which is created, for this process while the context lasts.

    The system frees it when the process ends, however it does.

    Raises:
        FolderInUseError: another training holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"another training writes to {folder}; wait for its end, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
