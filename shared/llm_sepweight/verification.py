"""Comparing the digests of a part's files beside other work, on a thread of its own.

What starts it waits for the end where that is near, and has it go on in the background where it is not.
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

# Seconds of hashing after which its pace is known well enough to say how long the rest takes.
_SAMPLE_SECONDS = 0.1
# Linux: the least that a thread can ask of a processor that others want.
_LAST_IN_LINE = 19

FileState = tuple[str, int, int, int]
KnownDigests = dict[FileState, str]
"""Digests that were computed before in this process, by path, inode, size and time of the last change."""


@dataclass(frozen=True)
class Verified:
    """What was compared, and how long it took."""

    files: int
    bytes: int
    seconds: float


class Verification:
    """Compares every byte of some parts' files with the manifest. Starts once; `stop` ends it early.

    `n_files` and `n_bytes` say how much there is to compare, files that `known` has among them.

    Args:
        path: a sepweight directory with a manifest.
        parts: whose files are compared, each once.
        known: files that were read before are not read again unless they have changed. Grows.

    Raises:
        PartSpecError, DirectoryError, ManifestError, FileError: as `load`; sizes are compared here already.
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
        """Done when all was compared: WrongDigestError or another FileError for a file that is not as written."""

    def start(self) -> None:
        """Begins to read."""
        threading.Thread(target=self._run, name="verification", daemon=True).start()

    def stop(self) -> None:
        """Ends after the chunk at hand; the result is then cancelled. Does nothing to one that has ended."""
        self._stopping.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all is compared within `seconds`, None for however long it takes. Blocks.

        Comes back as soon as the pace so far says that it cannot be. Raises what is wrong with a file, and
        CancelledError after `stop`.
        """
        if not self._ends_within(seconds):
            return False
        self.result.result()
        return True

    def give_way(self) -> None:
        """From now on it takes of the processor only what nobody else wants (on Linux; elsewhere its share)."""
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
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
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
            # a thread's number is a process's to Linux, and its priority is its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LAST_IN_LINE)


class _Stopped(Exception):
    """Nobody wants to know any more."""


def _state(path: Path) -> FileState:
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns
