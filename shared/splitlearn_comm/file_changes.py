"""What files hold, read again when the files change: certificates, tokens and tenants are renewed without a restart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOOK_SECONDS: Final = 1.0
"""Between two looks of `WatchedFiles.changes`."""

# What tells one content of a file from another: device, inode, size, and the time of the last change in ns.
_Identity = tuple[int, int, int, int]


class WatchedFiles(Generic[T]):
    """What files hold. Files that cannot be used change nothing: the value stays, and the reason is logged once.

    Used on any thread. A file that is replaced in one step, also by moving a link to it, is never seen half.

    Args:
        what: what they hold, for the log.
        paths: None is left out.
        read: reads all of them.
        unusable: what `read` raises for files that cannot be used; here, the constructor raises it too.
    """

    def __init__(
        self, what: str, paths: Iterable[Path | None], read: Callable[[], T], unusable: type[Exception]
    ) -> None:
        self._what = what
        self._paths = tuple(path for path in paths if path is not None)
        self._read = read
        self._unusable = unusable
        self._lock = threading.Lock()
        # taken before the files are read, so that a change in between is seen at the next look
        self._seen = self._identities()
        self._value = read()

    @property
    def value(self) -> T:
        """As of the last look."""
        return self._value

    def look(self) -> bool:
        """Reads the files if they are others than last time. True if they were, and can be used."""
        with self._lock:
            found = self._identities()
            if found == self._seen:
                return False
            self._seen = found
            try:
                self._value = self._read()
            except self._unusable as error:
                log.warning("changed files cannot be used, the old content stays", what=self._what, reason=str(error))
                return False
            return True

    async def changes(self) -> AsyncIterator[T]:
        """The value after each change; goes on until cancelled, unless there is no file. Files are read on a thread."""
        while self._paths:
            await asyncio.sleep(LOOK_SECONDS)
            if await asyncio.to_thread(self.look):
                yield self._value

    def _identities(self) -> list[_Identity | None]:
        return [_identity_of(path) for path in self._paths]


def _identity_of(path: Path) -> _Identity | None:
    """None if there is no such file now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
