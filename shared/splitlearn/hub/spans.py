"""Which bytes of which files a section needs, in how many requests. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from splitlearn.hub.headers import Located

PIECE_BYTES = 16 * 2**20
"""The most of one request. Hubs count requests, and what was fetched of a piece is lost with the process."""


@dataclass(frozen=True, order=True)
class Span:
    """Bytes `start` up to, not including, `end` of a file."""

    file: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


def spans_of(tensors: Iterable[Located]) -> list[Span]:
    """The bytes of the tensors and none beside them; of tensors that lie next to each other in one span."""
    merged: list[Span] = []
    for each in sorted(Span(tensor.file, tensor.start, tensor.end) for tensor in tensors):
        last = merged[-1] if merged else None
        if last is not None and last.file == each.file and each.start <= last.end:
            merged[-1] = Span(last.file, last.start, max(last.end, each.end))
        else:
            merged.append(each)
    return [span for span in merged if span.size]


def pieces_of(spans: Iterable[Span], most: int = PIECE_BYTES) -> Iterator[Span]:
    """The same bytes in pieces of at most so many each."""
    for span in spans:
        for start in range(span.start, span.end, most):
            yield Span(span.file, start, min(start + most, span.end))
