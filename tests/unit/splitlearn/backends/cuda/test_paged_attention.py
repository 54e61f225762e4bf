"""Shapes: T rows of all sessions, N rows that one holds, H heads, K heads of keys, d width of a head."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
    sliding_window_overlay,
)

from splitlearn.attention.backend import StepAttention
from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.mask import AttentionMask
from splitlearn.attention.params import AttentionParams
from splitlearn.attention.ragged import RaggedCache, attend_rows, make_mask
from splitlearn.backends.cpu.contiguous_attention import ContiguousAttention
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.backends.cuda.block_table import BlockTable
from splitlearn.backends.cuda.paged_attention import CannotBeCaptured, PagedAttention, PagedKernel
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool
from splitlearn.runner.select import _has_paged_attention
from support.paged import KERNEL, PAGE_ROWS
from support.steps import begin_step

CPU = torch.device("cpu")
HEADS, KV_HEADS, WIDTH, LAYERS = 4, 2, 8, 2
PLAIN = AttentionParams(None, None, None, None)
LAYOUT = KVLayout(((KV_HEADS, WIDTH),) * (2 * LAYERS), torch.float32, CPU)
# steps of three sessions: rows that each keeps and brings, with prompts in chunks, a truncation, and decoding alone
STEPS = (((0, 9), (0, 1), (0, 6)), ((9, 5), (1, 1), (4, 3)), ((14, 1), (2, 1), (7, 1)), ((15, 1), (3, 4), (8, 1)))

rules = pytest.mark.parametrize(
    "mask",
    [None, sliding_window_causal_mask_function(3), chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.long))],
    ids=["all", "window", "chunks"],
)
hows = pytest.mark.parametrize(
    "params",
    [
        PLAIN,
        AttentionParams(None, 0.3, None, None),
        AttentionParams(None, None, 2.0, None),
        AttentionParams(None, None, None, torch.ones(HEADS)),
    ],
    ids=["plain", "scaling", "softcap", "sinks"],
)


def run_step(
    sessions: list[tuple[Any, int, int]],
    attention: Callable[[Any], StepAttention],
    mask: AttentionMask | None,
    params: AttentionParams,
) -> torch.Tensor:
    """All layers of one step with random queries, keys and values, the same for the same step: [layers, T, H, d]."""
    n_rows = sum(count for _, _, count in sessions)
    dice = torch.Generator().manual_seed(sum(position for _, position, _ in sessions))
    outputs = []
    cache = RaggedCache()
    begin_step(cache, sessions, attention)
    for layer in range(LAYERS):
        query, key, value = (torch.randn(1, n, n_rows, WIDTH, generator=dice) for n in (HEADS, KV_HEADS, KV_HEADS))
        cache.update(key, value, layer)
        outputs.append(attend_rows(cache, query[0], mask, params))
        assert outputs[-1].is_contiguous()
    cache.end()
    return torch.stack(outputs)


@rules
@hows
def test_attention_to_pages_equals_that_to_rows_in_one_piece(
    mask: Callable[..., Any] | None, params: AttentionParams
) -> None:
    rule = None if mask is None else make_mask(mask_function=mask)
    pool = PagePool(LAYOUT, 12, PAGE_ROWS)
    in_pages, in_pieces = [PagedKVCache(pool) for _ in range(3)], [ContiguousKVCache(LAYOUT) for _ in range(3)]
    ways = (partial(PagedAttention.of, pool, KERNEL), in_pages), (ContiguousAttention, in_pieces)
    for step in STEPS:
        found, expected = (
            run_step([(kv, *sizes) for kv, sizes in zip(kvs, step, strict=True)], attention, rule, params)
            for attention, kvs in ways
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for paged, pieces in zip(in_pages, in_pieces, strict=True):
        assert all(map(torch.equal, paged.views(0, paged.n_rows), pieces.views(0, pieces.n_rows)))


def test_what_attends_at_once_is_asked_once_for_a_layer() -> None:
    asked = []

    def attend(*args: Any, **options: Any) -> torch.Tensor:
        asked.append((args, options))
        return KERNEL.attend(*args, **options)

    pool = PagePool(LAYOUT, 12, PAGE_ROWS)
    kernel = PagedKernel(attend, dtypes=KERNEL.dtypes, page_rows=PAGE_ROWS)
    kvs = [PagedKVCache(pool) for _ in range(3)]
    window = make_mask(mask_function=sliding_window_causal_mask_function(3))
    for rule, step in ((None, STEPS[0]), (None, STEPS[1]), (None, STEPS[2]), (window, STEPS[2])):
        run_step(
            [(kv, *sizes) for kv, sizes in zip(kvs, step, strict=True)],
            partial(PagedAttention.of, pool, kernel),
            rule,
            PLAIN,
        )
    assert [options["window_size"] for _, options in asked] == [(-1, 0)] * 4 + [(-1, -1)] * 2 + [(2, 0)] * 2
    # made once for all layers
    assert asked[0][1]["block_table"] is asked[1][1]["block_table"]
    assert {args[1].data_ptr() for args, _ in asked} == {pool.pages[0].data_ptr(), pool.pages[2].data_ptr()}


def page(dtype: torch.dtype = torch.bfloat16, width: int = 64) -> torch.Tensor:
    return torch.empty(2, 256, KV_HEADS, width, dtype=dtype)


def query(dtype: torch.dtype = torch.bfloat16, width: int = 64) -> torch.Tensor:
    return torch.empty(HEADS, 3, width, dtype=dtype)


WINDOW = make_mask(mask_function=sliding_window_causal_mask_function(3))
OTHER = make_mask(mask_function=chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.long)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((query(), [page(), page()], None, PLAIN), ""),
        ((query(torch.float16), [page(torch.float16)] * 2, WINDOW, PLAIN), ""),
        ((query(width=256), [page(width=256)] * 2, None, PLAIN), ""),
        ((query(), [page(), page()], OTHER, PLAIN), "no sliding window"),
        ((query(), [page(), page()], None, AttentionParams(None, None, 2.0, None)), "caps scores"),
        ((query(), [page(), page()], None, AttentionParams(None, None, None, torch.ones(4))), "sinks"),
        ((query(), [page(), page()], None, AttentionParams(lambda *_: (), None, None, None)), "latents"),
        ((query(torch.float32), [page(torch.float32)] * 2, None, PLAIN), "float32"),
        ((query(torch.float32), [page(), page()], None, PLAIN), "float32"),
        ((query(), [page(), page(width=32)], None, PLAIN), "64, 64 and 32"),
        ((query(width=60), [page(width=60)] * 2, None, PLAIN), "60"),
        ((query(width=264), [page(width=264)] * 2, None, PLAIN), "264"),
    ],
)
def test_what_the_kernel_does_not_take_runs_session_by_session_and_says_why(given: Any, words: str) -> None:
    reason = PagedKernel().why_not(*given)
    assert bool(reason) == bool(words)
    assert words in reason


def test_a_step_that_is_to_be_replayed_refuses_to_run_session_by_session() -> None:
    pool = PagePool(LAYOUT, 4, PAGE_ROWS)
    kv = PagedKVCache(pool)
    pool.reserve([(kv, 0, 1)])
    rows: StepAttention = PagedAttention(pool, KERNEL, BlockTable.of(pool, [(kv, 0, 1)]), None)
    with pytest.raises(CannotBeCaptured, match="layer 1 attends session by session: its mask is no sliding window"):
        rows.attend(1, torch.randn(HEADS, 1, WIDTH), OTHER, PLAIN)
    with pytest.raises(CannotBeCaptured):
        rows.gather(0, 1)


def test_a_function_that_takes_no_pages_says_what_it_lacks() -> None:
    def of_torch_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
        raise AssertionError

    assert PagedKernel(of_torch_2_11).lacking == ("enable_gqa", "seqused_k", "block_table", "num_splits")
    assert KERNEL.lacking == ()


@pytest.mark.parametrize("lacking", [(), ("block_table", "enable_gqa")])
def test_a_cuda_device_whose_torch_reads_no_pages_attends_session_by_session_and_says_so(
    lacking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SPLITLEARN_KERNELS", raising=False)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(PagedKernel, "lacking", property(lambda _: lacking))
    part: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)
    assert _has_paged_attention(part) == (not lacking)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(lacking)
    assert all(f"torch {torch.__version__} takes no block_table, enable_gqa" in each for each in said)


@pytest.mark.skipif(bool(PagedKernel().lacking), reason="this torch attends to no pages")
def test_torch_takes_the_call_as_it_is_made() -> None:
    """By shapes alone: what the kernel itself says to it, only a GPU shows."""
    meta = torch.device("meta")
    layout = KVLayout(((KV_HEADS, 64),) * 2, torch.bfloat16, meta)
    pool = PagePool(layout, 3, PagedKernel().page_rows)
    kv = PagedKVCache(pool)
    rows = PagedAttention.of(pool, PagedKernel(), [(kv, 0, 300)])
    rows.store(0, *(torch.empty(KV_HEADS, 300, 64, dtype=torch.bfloat16, device=meta) for _ in range(2)))
    found = rows.attend(0, torch.empty(HEADS, 300, 64, dtype=torch.bfloat16, device=meta), None, PLAIN)
    assert found is not None
    assert found[0].shape == (300, HEADS, 64)
    assert PagedKernel().attend is varlen_attn


@pytest.mark.parametrize(
    ("mask", "window"),
    [
        (sliding_window_causal_mask_function(7), 7),
        (sliding_window_overlay(7), None),
        (chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.long)), None),
        (and_masks(sliding_window_causal_mask_function(7), causal_mask_function), None),
        (and_masks(sliding_window_overlay(7), causal_mask_function), 7),
        (lambda _, __, row, other: other <= row, None),
    ],
)
def test_a_window_is_known_where_it_is_all_that_the_rule_says(mask: Callable[..., Any], window: int | None) -> None:
    assert AttentionMask(mask).window == window
