import sys
from pathlib import Path

import pytest
import torch

from splitlearn.backends.cpu.huge_pages import Span, huge_pages, prefer_huge_pages

PAGE = 2 * 2**20


def test_spans_are_widened_to_whole_pages_and_each_page_is_named_once() -> None:
    spans = [Span(PAGE + 5, 10), Span(PAGE + 100, PAGE), Span(4 * PAGE, PAGE), Span(9 * PAGE - 1, 2)]
    assert huge_pages(spans) == [PAGE, 2 * PAGE, 4 * PAGE, 8 * PAGE, 9 * PAGE]


def test_nothing_is_asked_for_nothing() -> None:
    assert huge_pages([]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are call for on Linux only")
def test_the_contents_stay_as_they_were() -> None:
    tensor = torch.arange(3 * 2**20, dtype=torch.int32)
    prefer_huge_pages([Span(tensor.data_ptr(), tensor.nbytes)])
    assert torch.equal(tensor, torch.arange(3 * 2**20, dtype=torch.int32))


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()
    or "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(),
    reason="this kernel has no huge pages",
)
def test_a_large_tensor_moves_into_huge_pages() -> None:
    tensor = torch.ones(64 * 2**20, dtype=torch.uint8)
    before = huge_bytes()
    prefer_huge_pages([Span(tensor.data_ptr(), tensor.nbytes)])
    assert huge_bytes() - before >= 32 * 2**20


def huge_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages"))
