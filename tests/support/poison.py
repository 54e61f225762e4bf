"""Stores whose memory holds NaN wherever no row of the session was written: whoever reads there shows it."""

from functools import partial
from math import nan

import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cpu.backend import ContiguousBackend
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.backends.cuda.backend import PagedBackend
from splitlearn.backends.cuda.paged_kv import PagePool
from splitlearn.model.part import Part
from splitlearn.runner.batched import BatchedRunner
from splitlearn.runner.select import why_not_batched
from splitlearn.runner.sequential import SequentialRunner
from support.paged import KERNEL, PAGE_ROWS, Record


class PoisonedKV(ContiguousKVCache):
    """New memory, and rows that were dropped."""

    def _reserve(self, n_rows: int) -> None:
        before = self._blocks
        super()._reserve(n_rows)
        if self._blocks is not before:
            self.poison()

    def truncate(self, position: int) -> None:
        super().truncate(position)
        self.poison()

    @torch.inference_mode()
    def poison(self) -> None:
        for block in self._blocks:
            block[:, :, self.n_rows :] = nan


class PoisonedPieces(ContiguousBackend):
    def new_kv(self, max_length: int | None) -> ContiguousKVCache:
        return PoisonedKV(self.layout, max_length)

    def release(self, kv: ContiguousKVCache, n_rows: int) -> None:
        kv.truncate(n_rows)


class PoisonedPool(PagePool):
    """Pages that nobody has; not that of null_page, which padded sessions read."""

    def __init__(self, layout: KVLayout, n_pages: int, page_rows: int) -> None:
        super().__init__(layout, n_pages, page_rows)
        self.poison()

    def collect(self) -> None:
        returned = bool(self._returned)
        super().collect()
        if returned:
            self.poison()

    @torch.inference_mode()
    def poison(self) -> None:
        for group in self._groups:
            group[:, self._free] = nan


class PoisonedPages(PagedBackend):
    def __init__(self, layout: KVLayout, n_pages: int) -> None:
        super().__init__(layout, (n_pages + 1) * PAGE_ROWS * layout.row_bytes, KERNEL, Record())
        self.pool = PoisonedPool(layout, n_pages, PAGE_ROWS)


def poisoned_runner(part: Part, kv_bytes: int | None = None) -> BatchedRunner | SequentialRunner:
    """As `runner_for` on a CPU."""
    if why_not_batched(part) is not None:
        return SequentialRunner(part, kv_bytes)
    return BatchedRunner(part, kv_bytes, PoisonedPieces)


def poisoned_paged_runner(part: Part, kv_bytes: int | None = None, *, n_pages: int) -> BatchedRunner | SequentialRunner:
    """As `runner_for` on a CUDA device, with what stands for one."""
    if why_not_batched(part) is not None:
        return SequentialRunner(part, kv_bytes)
    return BatchedRunner(part, kv_bytes, partial(_pages, n_pages))


def _pages(n_pages: int, layout: KVLayout, n_bytes: int | None) -> PoisonedPages:
    return PoisonedPages(layout, n_pages if n_bytes is None else n_bytes // (PAGE_ROWS * layout.row_bytes))
