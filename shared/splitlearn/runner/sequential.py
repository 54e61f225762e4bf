"""Runs one session after the other, for parts whose sessions cannot share a forward."""

import copy
from collections.abc import Sequence

import torch

from splitlearn.attention.kv_layout import check_held
from splitlearn.attention.page_budget import PageBudget
from splitlearn.model.cache import PartCache
from splitlearn.model.part import Part
from splitlearn.runner.interface import Runner, SequenceInput, cache_of_one_row


class SequentialRunner(Runner[PartCache]):
    """One session at a time, each with a cache of transformers' own."""

    is_batched = False

    def __init__(self, part: Part, kv_bytes: int | None = None) -> None:
        super().__init__(part)
        self._kv_bytes = kv_bytes
        layers = cache_of_one_row(part).layers
        tensors = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
        self._row_bytes = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))

    @property
    def row_bytes(self) -> int:
        return self._row_bytes

    def page_budget(self, page_size: int) -> PageBudget:
        return PageBudget.within(self._kv_bytes, self.row_bytes, page_size)

    def new_kv(self, max_length: int | None) -> PartCache:
        return self.part.new_cache()

    def truncate(self, kv: PartCache, position: int) -> PartCache:
        if position == 0:
            return self.part.new_cache()
        if self.part.can_truncate:
            kv.truncate(position)
            kv.n_rows = min(kv.n_rows, position)
        return kv

    @property
    def can_share_rows(self) -> bool:
        return self.part.can_truncate

    def copy_prefix(self, kv: PartCache, cached: PartCache, n_rows: int) -> PartCache:
        check_held(cached.n_rows, n_rows)
        return self.truncate(copy.deepcopy(cached), n_rows)

    def run(self, inputs: Sequence[SequenceInput[PartCache]]) -> list[torch.Tensor]:
        for each in inputs:
            check_held(each.kv.n_rows, each.start)
        return [self.part(each.rows.to(self.part.device), each.start, each.kv, wanted=each.wanted) for each in inputs]
