"""Rows of many sessions through stock layers in one forward: everything is batched but attention.

The rows of all sessions are concatenated to [1, T, D], so linear layers, norms and experts run once for all. Each layer
hands its new keys and values to `RaggedCache.update`, which stores them in the sessions' caches (`StepAttention`), and
then calls the attention function that is registered here under `NAME`. It attends for all sessions at once where the
backend has a kernel for that, else session by session.

Shapes: T rows of all sessions, t rows of one, N rows that it then holds, H heads, K heads of keys, d head dimension.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

from splitlearn.attention import per_session
from splitlearn.attention.backend import StepAttention
from splitlearn.attention.mask import AttentionMask
from splitlearn.attention.params import AttentionParams
from splitlearn.hf.masks import MaskFunction, is_causal

NAME = "splitlearn_ragged"


class RaggedCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """What the layers take for the cache of one sequence; holds the step's sessions for one forward.

    Attributes:
        layer: the one that runs.
        params: of the last attention call; None before the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []
        self.positions: list[int] = []
        self.layer = 0
        self.params: AttentionParams | None = None
        self._step: StepAttention | None = None
        self._biases: dict[tuple[int, AttentionMask | None], torch.Tensor] = {}

    @property
    def step(self) -> StepAttention:
        """Attention of the step that runs.

        Raises:
            RuntimeError: no step runs.
        """
        if self._step is None:
            raise RuntimeError("a ragged cache was used outside of a step")
        return self._step

    def begin(self, step: StepAttention, positions: Sequence[int], lengths: Sequence[int]) -> None:
        """Begins a step.

        Args:
            positions: of each session's first row; empty where only the device knows them.
            lengths: rows of each session.
        """
        self._step = step
        self.positions, self.lengths = list(positions), list(lengths)
        self._biases.clear()

    def end(self) -> None:
        self._step = None
        self._biases.clear()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores [1, K, T, d] in the sessions' caches, and returns both unchanged."""
        self.layer = layer_idx
        self.step.store(layer_idx, key_states[0], value_states[0])
        return key_states, value_states

    def gather(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of one session in the current layer, [K, N, d]."""
        return self.step.gather(index, self.layer)

    def causal_bias(self, index: int, like: torch.Tensor) -> torch.Tensor:
        """Added to the scores [t, N] of one session, so that rows see only themselves and earlier rows."""
        key = (index, None)
        if key not in self._biases:
            position, count = self.positions[index], self.lengths[index]
            hidden = torch.full((count, position + count), float("-inf"), dtype=like.dtype, device=like.device)
            self._biases[key] = hidden.triu_(position + 1)
        return self._biases[key]

    def mask_bias(self, index: int, mask: AttentionMask, like: torch.Tensor) -> torch.Tensor:
        """As `causal_bias`, for a mask of the model's own."""
        key = (index, mask)
        if key not in self._biases:
            visible = mask.visible(self.positions[index], self.lengths[index], like.device)
            bias = torch.zeros(visible.shape, dtype=like.dtype, device=like.device)
            self._biases[key] = bias.masked_fill_(~visible, float("-inf"))
        return self._biases[key]

    # models also ask a cache for its length; they are given positions, so these need not answer
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


class _Current(threading.local):
    """The cache of the forward that runs on this thread."""

    cache: RaggedCache | None = None


_CURRENT = _Current()


@contextmanager
def ragged_step(cache: RaggedCache) -> Iterator[None]:
    """Inside, attention on this thread uses `cache`, whose step ends with the block."""
    _CURRENT.cache = cache
    try:
        yield
    finally:
        _CURRENT.cache = None
        cache.end()


def make_mask(*, mask_function: MaskFunction, **_: Any) -> AttentionMask | None:
    """In place of a mask tensor for the rows of all sessions: None for a causal mask, else the rule."""
    return None if is_causal(mask_function) else AttentionMask(mask_function)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: AttentionMask | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [1, H, T, d] to output [1, T, H, d].

    Modules with `expand_kv` keep latents in the cache, and make keys and values from them in each call.
    """
    cache = _CURRENT.cache
    if cache is None:
        raise RuntimeError("ragged attention outside of a ragged step")
    cache.params = AttentionParams(getattr(module, "expand_kv", None), scaling, softcap, s_aux)
    return attend_rows(cache, query[0], attention_mask, cache.params)[None], None


def attend_rows(
    cache: RaggedCache, query_HTd: torch.Tensor, mask: AttentionMask | None, params: AttentionParams
) -> torch.Tensor:
    """All sessions of a step in the current layer: [T, H, d], contiguous."""
    computed = cache.step.attend(cache.layer, query_HTd, mask, params)
    if computed is not None and not computed[1]:
        return computed[0]
    queries = torch.split(query_HTd, cache.lengths, 1)
    if computed is not None:
        output_THd, missing = computed
        by_session = torch.split(output_THd, cache.lengths)
        for index in missing:
            by_session[index].copy_(_attend_session(cache, index, queries[index], mask, params).transpose(0, 1))
        return output_THd
    outputs = [_attend_session(cache, index, each, mask, params) for index, each in enumerate(queries)]
    by_row = [output_HTd.transpose(0, 1) for output_HTd in outputs]
    # contiguous, because models take views of it
    return by_row[0].contiguous() if len(by_row) == 1 else torch.cat(by_row)


def _attend_session(
    cache: RaggedCache, index: int, query_HTd: torch.Tensor, mask: AttentionMask | None, params: AttentionParams
) -> torch.Tensor:
    """One session: [H, t, d]."""
    keys_KNd, values_KNd = cache.gather(index)
    bias_TN = None
    if query_HTd.shape[1] == 1:
        start = None if mask is None else mask.first_visible(cache.positions[index])
        if start:
            keys_KNd, values_KNd = keys_KNd[:, start:], values_KNd[:, start:]
        elif mask is not None and start is None:
            bias_TN = cache.mask_bias(index, mask, query_HTd)
    elif mask is not None:
        bias_TN = cache.mask_bias(index, mask, query_HTd)
    elif cache.positions[index] or params.softcap is not None or params.sinks is not None:
        bias_TN = cache.causal_bias(index, query_HTd)
    return per_session.attend(query_HTd, keys_KNd, values_KNd, bias_TN, params)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, make_mask)
