"""Rows of many sessions through stock layers in one forward: everything at once but attention.

The rows of all sessions lie one behind the other in `[1, T, D]`, so linear layers, norms and experts run once for
all. Each layer hands its new keys and values to `RaggedCache.update`, which puts them where the sessions keep theirs
(`StepRows`), and then calls the attention function that is registered here under `NAME`, which attends at once where
that can be done where they lie, else session by session.

Shapes: T rows of all sessions, t rows of one, N rows that it then holds, H heads, K heads of keys, d width.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

from splitlearn.hf.masks import MaskFunction, is_causal
from splitlearn.kv.sequence_slice import SequenceSlice
from splitlearn.kv.table import SessionTable
from splitlearn.steps.rows import How, MaskRule, PieceRows, StepRows

NAME = "splitlearn_ragged"


class RaggedCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """What the layers take for the cache of one sequence; holds the step's sessions for one forward.

    Args:
        place: makes room for the rows of a step, and says where.
    """

    def __init__(self, place: Callable[[Sequence[SequenceSlice[Any]]], StepRows] = PieceRows) -> None:
        super().__init__()
        self.lengths: list[int] = []
        self.positions: list[int] = []
        self.rows: StepRows = PieceRows(())
        self.layer = 0
        self.how: How | None = None
        self._place = place
        self._masks: dict[tuple[int, MaskRule | None], torch.Tensor] = {}

    @property
    def table(self) -> SessionTable | None:
        """What our kernels read of the step's sessions; None where none does."""
        return self.rows.table

    def begin(self, sessions: Sequence[SequenceSlice[Any]]) -> None:
        """Truncates each session to its slice's start, and reserves room for the slice."""
        self.begin_at(self._place(sessions), [position for _, position, _ in sessions], [n for _, _, n in sessions])

    def begin_at(self, rows: StepRows, positions: list[int], lengths: list[int]) -> None:
        """The same for sessions whose rows are placed; no positions are known where only the device knows them."""
        self.rows = rows
        self.positions, self.lengths = positions, lengths
        self._masks.clear()

    def end(self) -> None:
        self.rows = PieceRows(())
        self._masks.clear()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts [1, K, T, d] where the sessions keep theirs, and gives them back as they are."""
        self.layer = layer_idx
        self.rows.keep(layer_idx, key_states[0], value_states[0])
        return key_states, value_states

    def enter(self, layer: int) -> SessionTable:
        """What places this layer's rows, in place of `update`."""
        table = self.table
        if table is None:
            raise RuntimeError("no kernel reads the rows of this step's sessions")
        self.layer = layer
        return table

    def held(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of one session in the layer that was updated last, [K, N, d]."""
        return self.rows.held(index, self.layer)

    def causal(self, index: int, like: torch.Tensor) -> torch.Tensor:
        """What to add to the scores [t, N] of one session, so that rows see themselves and what is before them."""
        key = (index, None)
        if key not in self._masks:
            position, count = self.positions[index], self.lengths[index]
            hidden = torch.full((count, position + count), float("-inf"), dtype=like.dtype, device=like.device)
            self._masks[key] = hidden.triu_(position + 1)
        return self._masks[key]

    def ruled(self, index: int, rule: MaskRule, like: torch.Tensor) -> torch.Tensor:
        """As `causal`, by a rule of the model's own."""
        key = (index, rule)
        if key not in self._masks:
            seen = rule.table(self.positions[index], self.lengths[index], like.device)
            hidden = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
            self._masks[key] = hidden.masked_fill_(~seen, float("-inf"))
        return self._masks[key]

    # what models ask of a cache besides; positions are given to them, so these say nothing
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


class _Step(threading.local):
    """The cache of the forward that runs on this thread."""

    cache: RaggedCache | None = None


_STEP = _Step()


@contextmanager
def ragged_step(cache: RaggedCache) -> Any:
    """While it lasts, `attend` belongs to `cache` on this thread."""
    _STEP.cache = cache
    try:
        yield
    finally:
        _STEP.cache = None
        cache.end()


def mask_rule(*, mask_function: MaskFunction, **_: Any) -> MaskRule | None:
    """In place of a mask for all rows of all sessions: nothing where a row sees all before it, else the rule."""
    return None if is_causal(mask_function) else MaskRule(mask_function)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: MaskRule | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, H, T, d] to output [1, T, H, d].

    Modules with `expand_kv` keep latents in the cache, and make keys and values of them each time.
    """
    cache = _STEP.cache
    if cache is None:
        raise RuntimeError("ragged attention outside of a ragged step")
    cache.how = How(getattr(module, "expand_kv", None), scaling, softcap, s_aux)
    return attend_rows(cache, query[0], attention_mask, cache.how)[None], None


def attend_rows(cache: RaggedCache, query_HTd: torch.Tensor, rule: MaskRule | None, how: How) -> torch.Tensor:
    """All sessions of a step in the layer that was entered last: [T, H, d] in one piece."""
    found = cache.rows.attend(cache.layer, query_HTd, rule, how)
    if found is not None and not found[1]:
        return found[0]
    queries = torch.split(query_HTd, cache.lengths, 1)
    if found is not None:
        output_THd, missing = found
        spans = torch.split(output_THd, cache.lengths)
        for index in missing:
            spans[index].copy_(_attend_one(cache, index, queries[index], rule, how).transpose(0, 1))
        return output_THd
    outputs = [_attend_one(cache, index, each, rule, how) for index, each in enumerate(queries)]
    by_row = [output_HTd.transpose(0, 1) for output_HTd in outputs]
    # in one piece, as models expect that go on with a view
    return by_row[0].contiguous() if len(by_row) == 1 else torch.cat(by_row)


def _attend_one(
    cache: RaggedCache, index: int, query_HTd: torch.Tensor, rule: MaskRule | None, how: How
) -> torch.Tensor:
    """One session: [H, t, d]."""
    keys_KNd, values_KNd = cache.held(index)
    mask_TN = None
    if query_HTd.shape[1] == 1:
        start = None if rule is None else rule.first_seen(cache.positions[index])
        if start:
            keys_KNd, values_KNd = keys_KNd[:, start:], values_KNd[:, start:]
        elif rule is not None and start is None:
            mask_TN = cache.ruled(index, rule, query_HTd)
    elif rule is not None:
        mask_TN = cache.ruled(index, rule, query_HTd)
    elif cache.positions[index] or how.softcap is not None or how.sinks is not None:
        mask_TN = cache.causal(index, query_HTd)
    if how.expand is not None:
        keys_KNd, values_KNd = (expanded[0] for expanded in how.expand(keys_KNd[None], values_KNd[None]))
    if how.softcap is None and how.sinks is None:
        is_causal = mask_TN is None and query_HTd.shape[1] > 1
        return _fused(query_HTd, keys_KNd, values_KNd, mask_TN, is_causal, how.scaling)
    return _by_hand(query_HTd, keys_KNd, values_KNd, mask_TN, how)


def _fused(
    query_HTd: torch.Tensor,
    keys_KNd: torch.Tensor,
    values_KNd: torch.Tensor,
    mask_TN: torch.Tensor | None,
    is_causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    heads, count, _ = query_HTd.shape
    shared = heads // keys_KNd.shape[0]
    if count == 1 and shared > 1 and mask_TN is None:
        # heads that share keys become rows of one head: nothing is repeated
        query_HTd = query_HTd.view(keys_KNd.shape[0], shared, -1)
    output = functional.scaled_dot_product_attention(
        query_HTd[None],
        keys_KNd[None],
        values_KNd[None],
        attn_mask=mask_TN,
        is_causal=is_causal,
        scale=scaling,
        enable_gqa=query_HTd.shape[0] != keys_KNd.shape[0],
    )
    return output.view(heads, count, -1)


def _by_hand(
    query_HTd: torch.Tensor,
    keys_KNd: torch.Tensor,
    values_KNd: torch.Tensor,
    mask_TN: torch.Tensor | None,
    how: How,
) -> torch.Tensor:
    """Scores that are capped, or of which each head gives some to a sink (the weight of a row that is not there)."""
    heads, count, width = query_HTd.shape
    shared = heads // keys_KNd.shape[0]
    query_KSTd = query_HTd.reshape(-1, shared * count, width)
    scores_KSTN = torch.matmul(query_KSTd, keys_KNd.transpose(1, 2)) * (
        width**-0.5 if how.scaling is None else how.scaling
    )
    scores_HTN = scores_KSTN.view(heads, count, -1)
    if how.softcap is not None:
        scores_HTN = torch.tanh(scores_HTN / how.softcap) * how.softcap
    if mask_TN is not None:
        scores_HTN = scores_HTN + mask_TN
    if how.sinks is not None:
        sinks_HT1 = how.sinks.reshape(-1, 1, 1).expand(-1, count, 1).to(scores_HTN.dtype)
        scores_HTN = torch.cat([scores_HTN, sinks_HT1], dim=-1)
    weights_HTN = torch.softmax(scores_HTN, dim=-1, dtype=torch.float32).to(query_HTd.dtype)
    if how.sinks is not None:
        weights_HTN = weights_HTN[..., :-1]
    weights_KSTN = weights_HTN.reshape(-1, shared * count, weights_HTN.shape[-1])
    return torch.matmul(weights_KSTN, values_KNd).view(heads, count, -1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, mask_rule)
