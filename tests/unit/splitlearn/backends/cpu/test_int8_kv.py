"""Keys and values as 8-bit levels: stored, read, copied and run through a part.

Shapes: T rows of all sessions, N rows that one holds, H heads, K heads of keys, d width of a head.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.params import AttentionParams
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cpu.attention_metadata import AttentionMetadata, HeadNorms
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.runner.select import runner_for
from support.fused_modules import outputs, packed
from support.tiny_models import tiny_config

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("every_set")


def layout_of(n_kv_heads: int, width: int) -> KVLayout:
    return KVLayout(((n_kv_heads, width),) * 4, torch.bfloat16, CPU, is_int8=True)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def table_of(*slices: tuple[ContiguousKVCache, int, int]) -> AttentionMetadata:
    table = AttentionMetadata.of([SequenceSlice(*each) for each in slices])
    assert table is not None
    return table


def store(kv: ContiguousKVCache, position: int, rows: list[torch.Tensor]) -> None:
    """Rows [K, N, d] of each of the layout's tensors."""
    count = rows[0].shape[1]
    kv.reserve(position, count)
    for tensor, each in enumerate(rows):
        table_of((kv, position, count)).store(tensor, each)


def numbers(kv: ContiguousKVCache) -> list[torch.Tensor]:
    """All that it holds, in bf16."""
    return [kv.layout.numbers(view, kv.layout.shapes[0][1]) for view in kv.views(0, kv.n_rows)]


def session(n_kv_heads: int, width: int, held: int, seed: int) -> ContiguousKVCache:
    kv = ContiguousKVCache(layout_of(n_kv_heads, width))
    store(kv, 0, [randn(n_kv_heads, held, width, seed=seed + i) for i in range(4)])
    return kv


def in_bf16(kv: ContiguousKVCache) -> ContiguousKVCache:
    """A session that holds the same numbers as they are."""
    twin = ContiguousKVCache(replace(kv.layout, is_int8=False))
    twin.reserve(0, kv.n_rows)
    for view, held in zip(twin.views(0, kv.n_rows), numbers(kv), strict=True):
        view.copy_(held)
    return twin


@pytest.mark.parametrize("width", [6, 16, 24, 64, 128])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_a_number_is_off_by_a_254th_of_the_greatest_of_its_row_and_head(width: int, size: float) -> None:
    kv = ContiguousKVCache(layout_of(2, width))
    rows = [randn(2, 70, width, seed=i) * size for i in range(4)]
    store(kv, 0, [each[:, :50] for each in rows])
    store(kv, 50, [each[:, 50:] for each in rows])
    for found, own in zip(numbers(kv), rows, strict=True):
        greatest = own.double().abs().amax(2, keepdim=True)
        # beside half a level, what rounding the product to bf16 loses
        assert torch.all((found.double() - own.double()).abs() <= greatest * (1 / 254 + 2**-8))


def test_rows_of_zeros_and_next_to_nothing_are_zeros_and_a_broken_row_breaks_no_other() -> None:
    kv = ContiguousKVCache(layout_of(2, 16))
    rows = [randn(2, 4, 16, seed=i) for i in range(4)]
    for each in rows:
        each[:, 0], each[:, 1], each[0, 2, 5] = 0, 1e-38, float("inf")
    store(kv, 0, rows)
    for found, own in zip(numbers(kv), rows, strict=True):
        assert torch.equal(found[:, :2], torch.zeros(2, 2, 16).bfloat16())
        assert not found[0, 2].isfinite().all()
        assert torch.all((found[:, 3] - own[:, 3]).abs() <= 0.03)
        assert torch.all((found[1, 2] - own[1, 2]).abs() <= 0.03)


def test_a_row_takes_a_byte_for_each_number_and_four_for_each_head() -> None:
    assert layout_of(2, 64).row_bytes == 4 * 2 * (64 + 4)
    assert layout_of(2, 6).row_bytes == 4 * 2 * (16 + 4)
    kv = session(2, 64, 64, 0)
    assert kv.block is not None
    assert kv.block.nbytes == 64 * layout_of(2, 64).row_bytes


@pytest.mark.parametrize("heads", [(14, 2), (4, 4), (9, 1)], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_rows_see_what_they_would_see_if_the_rounded_numbers_were_held_as_they_are(
    heads: tuple[int, int], seed: int
) -> None:
    dice = random.Random(seed)
    width = dice.choice([6, 16, 64, 80])
    params = AttentionParams(None, dice.choice([None, 0.4]), dice.choice([None, 5.0]))
    works = [(session(heads[1], width, dice.randint(60, 1100), n), dice.choice([1, 1, 7, 60])) for n in range(4)]
    # sessions in bf16 may share the step
    if dice.random() < 0.5:
        works[1] = in_bf16(works[1][0]), works[1][1]
    total = sum(count for _, count in works)
    starts_T = dice.choice([None, torch.arange(total) % 40])
    query_HTd = randn(heads[0], total, width, seed=9)
    twins = [(in_bf16(kv) if kv.layout.is_int8 else kv, count) for kv, count in works]
    found, expected = (
        table_of(*((kv, kv.n_rows - count, count) for kv, count in each)).attend(1, query_HTd, starts_T, params)
        for each in (works, twins)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("is_normed", [False, True])
@pytest.mark.parametrize("n_turned", [0, 24, 40])
def test_normed_and_rotated_heads_are_rounded_as_rows_that_are_stored(n_turned: int, is_normed: bool) -> None:
    width, held, new = 40, 5, 20
    rows_TN = randn(new, (4 + 2 * 2) * width, seed=9)
    angles = torch.randn(1, new, n_turned, generator=torch.Generator().manual_seed(1))
    turns = (angles.cos().bfloat16(), angles.sin().bfloat16()) if n_turned else None
    norms = HeadNorms(randn(width, seed=2), randn(width, seed=3), 1e-5, unit_offset=False) if is_normed else None
    kv = session(2, width, held, 0)
    plain, queries = in_bf16(kv), []
    for each in (kv, plain):
        each.reserve(held, new)
        queries.append(table_of((each, held, new)).rope_and_store(1, rows_TN.clone(), turns, norms))
    assert torch.equal(*queries)
    again = session(2, width, held, 0)
    store(again, held, [view[:, held:].contiguous() for view in plain.views(0, held + new)])
    for tensor in (2, 3):
        assert torch.equal(numbers(kv)[tensor], numbers(again)[tensor])
    before = session(2, width, held, 0)
    assert all(torch.equal(a[:, :held], b) for a, b in zip(numbers(kv), numbers(before), strict=True))


def test_a_session_that_grows_or_takes_over_rows_holds_the_same_numbers() -> None:
    kv = session(2, 16, 60, 0)
    before, taken = numbers(kv), ContiguousKVCache(kv.layout)
    taken.copy_from(kv, 40)
    kv.reserve(60, 500)
    assert all(torch.equal(grown[:, :60], own) for grown, own in zip(numbers(kv), before, strict=True))
    assert all(torch.equal(copied, own[:, :40]) for copied, own in zip(numbers(taken), before, strict=True))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "mistral"])
def test_a_part_gives_nearly_what_it_gives_otherwise_by_the_same_kernels(tmp_path: Path, kind: str) -> None:
    part = packed(tmp_path, tiny_config(kind))
    plain = runner_for(part)
    expected = outputs(plain)
    rounded = runner_for(part, None, "int8")
    assert rounded.fusion == plain.fusion
    assert rounded.row_bytes < 0.75 * plain.row_bytes
    found = outputs(rounded)
    for own, each in zip(expected, found, strict=False):
        if own.dim() == 2:
            off = (each.float() - own.float()).square().mean().sqrt()
            assert 0 < off < 0.03 * own.float().square().mean().sqrt()
