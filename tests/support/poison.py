"""Stores whose memory holds NaN wherever no row of the session was written: whoever reads there shows it."""

from functools import partial
from math import nan

import torch

from splitlearn.kv.pool import PagePool
from splitlearn.kv.store import KVLayout, SessionKV
from splitlearn.part import Part
from splitlearn.steps.runner import InBatches, InTurn, why_in_turn
from splitlearn.steps.stores import Pages, Pieces
from support.paged import KERNEL, PAGE_ROWS, Record


class PoisonedKV(SessionKV):
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


class PoisonedPieces(Pieces):
    def new_kv(self, max_length: int | None) -> SessionKV:
        return PoisonedKV(self.layout, max_length)

    def release(self, kv: SessionKV, n_rows: int) -> None:
        kv.truncate(n_rows)


class PoisonedPool(PagePool):
    """Pages that nobody has; not that of nobody, which padded sessions read."""

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


class PoisonedPages(Pages):
    def __init__(self, layout: KVLayout, n_pages: int) -> None:
        super().__init__(layout, (n_pages + 1) * PAGE_ROWS * layout.row_bytes, KERNEL, Record())
        self.pool = PoisonedPool(layout, n_pages, PAGE_ROWS)


def poisoned_runner(part: Part, kv_bytes: int | None = None) -> InBatches | InTurn:
    """As `runner_for` on a CPU."""
    if why_in_turn(part) is not None:
        return InTurn(part, kv_bytes)
    return InBatches(part, kv_bytes, PoisonedPieces)


def poisoned_paged_runner(part: Part, kv_bytes: int | None = None, *, n_pages: int) -> InBatches | InTurn:
    """As `runner_for` on a CUDA device, with what stands for one."""
    if why_in_turn(part) is not None:
        return InTurn(part, kv_bytes)
    return InBatches(part, kv_bytes, partial(_pages, n_pages))


def _pages(n_pages: int, layout: KVLayout, n_bytes: int | None) -> PoisonedPages:
    return PoisonedPages(layout, n_pages if n_bytes is None else n_bytes // (PAGE_ROWS * layout.row_bytes))
