"""Shapes: T rows of all sessions, t rows of one, N rows that it then holds, H heads, K heads of keys, d width."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import (
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.mask import AttentionMask
from splitlearn.attention.ragged import NAME, RaggedCache, attend, make_mask, ragged_step
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from support.steps import begin_step

HEADS = 4
SINKS_H = torch.tensor([0.0, 3.0, -1.0, 8.0])
# of each session: rows that it holds, and rows that it brings
SESSIONS = ((0, 9), (7, 1), (0, 1), (13, 6), (30, 1))

Sees = Callable[[int, int], bool]


class Module(torch.nn.Module):
    """What an attention function is given of a layer."""


class Latents(Module):
    """A layer that keeps one head of latents and makes keys and values of them."""

    def __init__(self) -> None:
        super().__init__()
        self.to_keys, self.to_values = torch.randn(HEADS, 8, 6), torch.randn(HEADS, 8, 5)

    def expand_kv(self, latent: torch.Tensor, rotary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([latent @ self.to_keys, rotary.expand(-1, HEADS, -1, -1)], dim=-1)
        return keys, latent @ self.to_values


@dataclass
class Given:
    """Random queries, and keys and values of several sessions of which the first rows are stored already."""

    kvs: list[ContiguousKVCache]
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    queries: list[torch.Tensor]

    def attend(self, module: Module, mask: AttentionMask | None, **options: Any) -> list[torch.Tensor]:
        """[t, H, d] of each session, by one call for all."""
        cache = RaggedCache()
        begin_step(cache, [(kv, held, new) for kv, (held, new) in zip(self.kvs, SESSIONS, strict=True)])
        with ragged_step(cache):
            fresh = [
                torch.cat([tensor[:, held:] for tensor, (held, _) in zip(tensors, SESSIONS, strict=True)], 1)[None]
                for tensors in (self.keys, self.values)
            ]
            keys, values = cache.update(fresh[0], fresh[1], 0)
            if hasattr(module, "expand_kv"):
                keys, values = module.expand_kv(keys, values)
            output, _ = attend(module, torch.cat(self.queries, 1)[None], keys, values, mask, **options)
        assert output.is_contiguous()
        return list(output[0].split([new for _, new in SESSIONS]))


def given(
    n_kv_heads: int = 2,
    widths: tuple[int, int] = (8, 8),
    query_width: int = 8,
    dtype: torch.dtype = torch.float32,
) -> Given:
    torch.manual_seed(0)
    layout = KVLayout(tuple((n_kv_heads, width) for width in widths), dtype, torch.device("cpu"))
    keys, values = ([torch.randn(n_kv_heads, held + new, w).to(dtype) for held, new in SESSIONS] for w in widths)
    queries = [torch.randn(HEADS, new, query_width).to(dtype) for _, new in SESSIONS]
    kvs = [ContiguousKVCache(layout) for _ in SESSIONS]
    for kv, key, value, (held, _) in zip(kvs, keys, values, SESSIONS, strict=True):
        kv.reserve(0, held)
        for space, rows in zip(kv.views(0, held) if held else (), (key, value), strict=bool(held)):
            space.copy_(rows[:, :held])
    return Given(kvs, keys, values, queries)


def by_the_book(
    query_HTd: torch.Tensor,
    keys_KNd: torch.Tensor,
    values_KNd: torch.Tensor,
    sees: Sees,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
) -> torch.Tensor:
    """[t, H, d], head by head and row by row."""
    held = keys_KNd.shape[1] - query_HTd.shape[1]
    rows = []
    for t in range(query_HTd.shape[1]):
        seen = [n for n in range(keys_KNd.shape[1]) if sees(held + t, n)]
        for head in range(HEADS):
            kv_head = head * keys_KNd.shape[0] // HEADS
            scores = keys_KNd[kv_head, seen] @ query_HTd[head, t] * (scaling or query_HTd.shape[2] ** -0.5)
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            sink = torch.empty(0) if s_aux is None else s_aux[head : head + 1]
            weights = torch.softmax(torch.cat([scores, sink]), 0)[: len(seen)]
            rows.append(weights @ values_KNd[kv_head, seen])
    return torch.stack(rows).view(query_HTd.shape[1], HEADS, -1)


def check(found: list[torch.Tensor], case: Given, sees: Sees, **options: Any) -> None:
    exact = case.queries[0].dtype is torch.float32
    for output, *tensors in zip(found, case.queries, case.keys, case.values, strict=True):
        expected = by_the_book(*(tensor.float() for tensor in tensors), sees, **options)
        # bf16 rounds the output, torch also the weights of several rows
        torch.testing.assert_close(output.float(), expected, atol=1e-5 if exact else 1e-2, rtol=1e-5 if exact else 1e-2)


def everything_before(row: int, other: int) -> bool:
    return other <= row


dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@dtypes
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_every_session_attends_to_its_own_rows_alone(n_kv_heads: int, dtype: torch.dtype) -> None:
    case = given(n_kv_heads, dtype=dtype)
    check(case.attend(Module(), None), case, everything_before)


@pytest.mark.parametrize(
    "options",
    [
        {"scaling": 0.7},
        {"softcap": 1.5},
        {"s_aux": SINKS_H},
        {"scaling": 0.1, "softcap": 2.0},
    ],
    ids=["scaling", "softcap", "sinks", "both"],
)
@dtypes
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_scales_caps_and_sinks_are_the_models_own(n_kv_heads: int, options: dict[str, Any], dtype: torch.dtype) -> None:
    case = given(n_kv_heads, dtype=dtype)
    check(case.attend(Module(), None, **options), case, everything_before, **options)


@dtypes
@pytest.mark.parametrize("options", [{}, {"softcap": 1.5}, {"s_aux": torch.ones(HEADS)}], ids=["plain", "cap", "sinks"])
def test_a_window_hides_what_lies_too_far_back(options: dict[str, Any], dtype: torch.dtype) -> None:
    case = given(dtype=dtype)
    rule = make_mask(mask_function=sliding_window_causal_mask_function(4))
    check(case.attend(Module(), rule, **options), case, lambda row, other: row - 4 < other <= row, **options)


@dtypes
def test_chunks_hide_what_lies_in_an_earlier_one(dtype: torch.dtype) -> None:
    case = given(dtype=dtype)
    rule = make_mask(mask_function=chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.long)))
    check(case.attend(Module(), rule), case, lambda row, other: other <= row and other // 5 == row // 5)


@dtypes
def test_a_rule_may_hide_rows_anywhere(dtype: torch.dtype) -> None:
    case = given(dtype=dtype)
    rule = make_mask(mask_function=lambda _, __, row, other: (other <= row) & ((row - other) % 3 == 0))
    check(case.attend(Module(), rule), case, lambda row, other: other <= row and (row - other) % 3 == 0)


def test_two_rules_in_one_step_are_not_mixed_up() -> None:
    case, cache = given(), RaggedCache()
    begin_step(cache, [(kv, held, new) for kv, (held, new) in zip(case.kvs, SESSIONS, strict=True)])
    like = torch.empty(0)
    tables = []
    for window in (2, 3, 4, 5):
        # made and forgotten one after the other, as by layers that make their own mask
        mask = make_mask(mask_function=sliding_window_causal_mask_function(window))
        assert mask is not None
        tables.append(cache.mask_bias(3, mask, like))
        del mask
    assert [int((table[0] == 0).sum()) for table in tables] == [2, 3, 4, 5]


def test_latents_become_keys_and_values_of_the_whole_session() -> None:
    case, module = given(1, widths=(8, 3), query_width=9), Latents()
    found = case.attend(module, None)
    expanded = [module.expand_kv(a[None], b[None]) for a, b in zip(case.keys, case.values, strict=True)]
    whole = Given(case.kvs, [keys[0] for keys, _ in expanded], [values[0] for _, values in expanded], case.queries)
    check(found, whole, everything_before)


@pytest.mark.parametrize("options", [{}, {"softcap": 1.5}])
def test_the_output_of_one_session_is_in_one_piece_too(options: dict[str, Any]) -> None:
    cache, rows = RaggedCache(), torch.randn(1, HEADS, 5, 8)
    begin_step(cache, [(ContiguousKVCache(KVLayout(((HEADS, 8),) * 2, torch.float32, rows.device)), 0, 5)])
    with ragged_step(cache):
        cache.update(rows, rows, 0)
        output, _ = attend(Module(), rows, rows, rows, None, **options)
    assert output.shape == (1, 5, HEADS, 8)
    assert output.is_contiguous()


@dtypes
def test_keys_and_values_are_kept_where_the_sessions_keep_theirs(dtype: torch.dtype) -> None:
    case = given(dtype=dtype)
    case.attend(Module(), None)
    for kv, key, value in zip(case.kvs, case.keys, case.values, strict=True):
        held = kv.views(0, kv.n_rows)
        assert torch.equal(held[0], key)
        assert torch.equal(held[1], value)


def test_where_a_row_sees_all_before_it_there_is_no_mask() -> None:
    assert make_mask(mask_function=causal_mask_function) is None


def test_transformers_finds_both_by_name() -> None:
    assert AttentionInterface()[NAME] is attend
    assert AttentionMaskInterface()[NAME] is make_mask


def test_attention_outside_of_a_step_is_refused() -> None:
    query = torch.zeros(1, HEADS, 1, 8)
    with pytest.raises(RuntimeError, match="outside of a ragged step"):
        attend(Module(), query, query, query, None)


def test_a_step_that_fails_is_over() -> None:
    query = torch.zeros(1, HEADS, 1, 8)
    with pytest.raises(ZeroDivisionError), ragged_step(RaggedCache()):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="outside of a ragged step"):
        attend(Module(), query, query, query, None)


def test_a_step_belongs_to_its_thread() -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        query = torch.zeros(1, HEADS, 1, 8)
        with pytest.raises(RuntimeError, match="outside of a ragged step") as caught:
            attend(Module(), query, query, query, None)
        errors.append(caught.value)

    with ragged_step(RaggedCache()):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(errors) == 1
