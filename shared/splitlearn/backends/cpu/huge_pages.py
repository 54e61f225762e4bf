"""Huge pages for weights that are read from end to end at each step: fewer pages to look up per byte."""

import ctypes
import mmap
import sys
from collections.abc import Iterable
from dataclasses import dataclass

_HUGE_PAGE = 2 * 2**20
# Linux 6.1; the mmap module does not name it yet
_MADV_COLLAPSE = 25


@dataclass(frozen=True)
class Span:
    """A stretch of memory: address and length in bytes."""

    address: int
    n_bytes: int


def huge_pages(spans: Iterable[Span]) -> list[int]:
    """Addresses of all huge pages that the spans touch, each once.

    Spans are widened: small weights lie side by side on the heap, and together fill huge pages.
    """
    pages: set[int] = set()
    for span in spans:
        first = span.address // _HUGE_PAGE * _HUGE_PAGE
        pages.update(range(first, span.address + span.n_bytes, _HUGE_PAGE))
    return sorted(pages)


def prefer_huge_pages(spans: Iterable[Span]) -> None:
    """Asks the kernel to put the spans into huge pages, now.

    It is advice: where the kernel cannot follow it (containers without huge pages, fragmented memory, a mapping that
    ends inside a page) the weights stay where they are and reads are somewhat slower, so answers are not looked at.
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for address in huge_pages(spans):
        madvise(address, _HUGE_PAGE, mmap.MADV_HUGEPAGE)
        madvise(address, _HUGE_PAGE, _MADV_COLLAPSE)
