"""The bytes of one section on their way from the hub to its file: pieces on disk, fetched in parallel.

A piece is a file of its own and has its name once it is whole, so an interrupted run leaves nothing that could be taken
for one, and the next run fetches only the others.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import torch

from splitlearn.checkpoints.weight_files import DTYPES
from splitlearn.errors import FetchStopped
from splitlearn.hub.headers import Located
from splitlearn.hub.spans import PIECE_BYTES, Span, pieces_of, spans_of
from splitlearn.hub.stopping import Stop

_AT_ONCE = 8
_PART = ".part"

ReadSpan = Callable[[Span, Callable[[bytes], object], Stop], None]
"""Hands the bytes of a span to a function; ends when it is stopped. Raises HubError."""


class Spool:
    """The pieces of one section in `folder`, which one process at a time uses; `read_span` fetches what is missing."""

    def __init__(self, folder: Path, read_span: ReadSpan, piece_bytes: int = PIECE_BYTES) -> None:
        self._folder = folder
        self._read_span = read_span
        self._piece_bytes = piece_bytes
        self._here: dict[Span, Path] = {}

    def fetch(self, tensors: Iterable[Located], advance: Callable[[int], None], stop: Stop) -> None:
        """Fetches what of these tensors is not here yet.

        Args:
            advance: told the bytes that were fetched, or were here; by one thread at a time.

        Raises:
            HubError: with what was fetched kept.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        wanted = [each for each in pieces_of(spans_of(tensors), self._piece_bytes) if each not in self._here]
        missing = []
        for piece in wanted:
            path = self._path(piece)
            if path.is_file() and path.stat().st_size == piece.size:
                self._here[piece] = path
                advance(piece.size)
            else:
                missing.append(piece)
        self._fetch_missing(missing, advance, stop)

    def tensor(self, wanted: Located) -> torch.Tensor:
        """A tensor, read from the pieces; they are fetched first if they are not here. One copy is in memory."""
        if not any(piece.file == wanted.file and piece.start <= wanted.start < piece.end for piece in self._here):
            self.fetch([wanted], lambda _: None, Stop())
        data = bytearray(wanted.end - wanted.start)
        view, at = memoryview(data), wanted.start
        for piece in sorted(each for each in self._here if each.file == wanted.file and each.end > wanted.start):
            if at >= wanted.end or piece.start > at:
                break
            with self._here[piece].open("rb") as file:
                file.seek(at - piece.start)
                at += file.readinto(view[at - wanted.start : min(piece.end, wanted.end) - wanted.start])
        if at != wanted.end:
            raise OSError(f"{self._folder} lost bytes of {wanted.key} while it was in use")
        dtype = DTYPES[wanted.dtype]
        if not data:
            return torch.empty(wanted.shape, dtype=dtype)
        # two numbers of four bits are one of torch's
        shape = wanted.shape if len(data) == torch.Size(wanted.shape).numel() * dtype.itemsize else (-1,)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)

    def remove(self) -> None:
        """Deletes the pieces."""
        self._here.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fetch_missing(self, missing: Sequence[Span], advance: Callable[[int], None], stop: Stop) -> None:
        ended, telling = stop.child(), threading.Lock()

        def fetch(piece: Span) -> None:
            if ended.is_set():
                return
            path = self._path(piece)
            part = path.with_name(path.name + _PART)

            def write(chunk: bytes) -> None:
                file.write(chunk)
                with telling:
                    advance(len(chunk))

            try:
                with part.open("wb") as file:
                    self._read_span(piece, write, ended)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                # the others are of no use without this one
                ended.set()
                part.unlink(missing_ok=True)
                raise
            part.replace(path)
            self._here[piece] = path

        with ThreadPoolExecutor(_AT_ONCE, "hub") as threads:
            runs = [threads.submit(fetch, piece) for piece in missing]
            try:
                wait(runs)
            except BaseException:
                # Ctrl-C, which this thread alone gets
                ended.set()
                raise
        # the first that failed by itself; those that it stopped come after it
        errors = [error for run in runs if (error := run.exception()) is not None]
        if errors:
            raise next((each for each in errors if not isinstance(each, FetchStopped)), errors[0])
        stop.check()

    def _path(self, piece: Span) -> Path:
        return self._folder / f"{piece.file.replace('/', '%')}-{piece.start}-{piece.end}"
