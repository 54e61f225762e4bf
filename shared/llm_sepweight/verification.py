"""Compares the digests of a part's files during other work, on a thread of its own.

The caller waits for the end if that is near, and otherwise lets it continue in the background.
"""

import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path

from llm_sepweight.errors import WrongDigestError
from llm_sepweight.manifest import FileEntry, Manifest
from llm_sepweight.mapped_file import checked_chunks, checked_path
from llm_sepweight.part_spec import PartSpec

# Seconds of hashing after which its pace is known well enough to estimate how long the rest takes.
_SAMPLE_SECONDS = 0.1
# Linux: the nice value of the lowest priority.
_LAST_IN_LINE = 19

FileState = tuple[str, int, int, int]
KnownDigests = dict[FileState, str]
"""Digests already computed in this process, by path, inode, size and modification time."""


@dataclass(frozen=True)
class Verified:
    """What was compared, and how long it took."""

    files: int
    bytes: int
    seconds: float


class Verification:
    """Compares every byte of the files of some parts with the manifest. Starts once; `stop` ends it early.

    `n_files` and `n_bytes` say how much there is to compare, including files in `known`.

    Args:
        path: a sepweight directory with a manifest.
        parts: the parts whose files are compared, each file once.
        known: digests of files read earlier, which are read again only if they have changed. New digests are added.

    Raises:
        PartSpecError, DirectoryError, ManifestError, FileError: as `load`; the constructor compares sizes.
    """

    def __init__(
        self, path: str | os.PathLike[str], parts: Iterable[str | PartSpec], known: KnownDigests | None = None
    ) -> None:
        self._directory = Path(path)
        manifest = Manifest.read(self._directory)
        entries = [manifest.entries(PartSpec.of(part)) for part in parts]
        self._entries = {section: entry for each in entries for section, entry in each.items()}
        for entry in self._entries.values():
            checked_path(self._directory, entry)
        self._known = {} if known is None else known
        self._hashed = 0
        self._stopping = threading.Event()
        self._in_background = threading.Event()
        self.n_files = len(self._entries)
        self.n_bytes = sum(entry.size for entry in self._entries.values())
        self.result: Future[Verified] = Future()
        """Done when everything is compared; WrongDigestError or another FileError if a file is not as written."""

    def start(self) -> None:
        """Start to read."""
        threading.Thread(target=self._run, name="verification", daemon=True).start()

    def stop(self) -> None:
        """End after the current chunk; the result is then cancelled. Does nothing after the end."""
        self._stopping.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether everything is compared within `seconds`; None waits for as long as it takes. Blocks.

        Returns early if the pace so far says that it cannot be. Raises the error of a bad file, and CancelledError
        after `stop`.
        """
        if not self._ends_within(seconds):
            return False
        self.result.result()
        return True

    def give_way(self) -> None:
        """From now on, use only processor time that nothing else wants (on Linux; elsewhere its normal share)."""
        self._in_background.set()

    def _ends_within(self, seconds: float | None) -> bool:
        if seconds is None or seconds <= _SAMPLE_SECONDS:
            return bool(wait([self.result], seconds).done)
        before = self._hashed
        if wait([self.result], _SAMPLE_SECONDS).done:
            return True
        pace, left = (self._hashed - before) / _SAMPLE_SECONDS, seconds - _SAMPLE_SECONDS
        if self.n_bytes - self._hashed > pace * left:
            return False
        return bool(wait([self.result], left).done)

    def _run(self) -> None:
        began = time.perf_counter()
        try:
            for entry in self._entries.values():
                self._compare(entry)
            self.result.set_result(Verified(self.n_files, self.n_bytes, time.perf_counter() - began))
        except _Stopped:
            self.result.cancel()
            self.result.set_running_or_notify_cancel()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is requested
            self.result.set_exception(error)

    def _compare(self, entry: FileEntry) -> None:
        path = checked_path(self._directory, entry)
        state = _state(path)
        if state in self._known:
            self._hashed += entry.size
            if self._known[state] != entry.sha256:
                raise WrongDigestError(path, entry.sha256, self._known[state])
            return
        try:
            for chunk in checked_chunks(self._directory, entry):
                self._hashed += len(chunk)
                self._take_orders()
        except WrongDigestError as error:
            self._known[state] = error.found
            raise
        self._known[state] = entry.sha256

    def _take_orders(self) -> None:
        if self._stopping.is_set():
            raise _Stopped
        if self._in_background.is_set() and hasattr(os, "setpriority"):
            self._in_background.clear()
            # Linux accepts a thread ID as a process ID, and each thread has its own priority
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LAST_IN_LINE)


class _Stopped(Exception):
    """`stop` was called."""


def _state(path: Path) -> FileState:
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns
