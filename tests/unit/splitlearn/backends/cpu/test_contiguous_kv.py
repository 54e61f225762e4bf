"""Shapes: H heads, N rows held, d width of a head."""

import pytest
import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.errors import PositionNotReached

CPU = torch.device("cpu")
ALIKE = KVLayout(((2, 8),) * 4, torch.float32, CPU)
UNLIKE = KVLayout(((2, 8), (2, 6), (1, 5), (2, 6), (2, 8), (4, 6)), torch.float32, CPU)

layouts = pytest.mark.parametrize("layout", [ALIKE, UNLIKE], ids=["alike", "unlike"])


def filled(shapes: tuple[tuple[int, int], ...], count: int, seed: int) -> list[torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return [torch.randn(heads, count, width, generator=dice) for heads, width in shapes]


@torch.inference_mode()
def write(kv: ContiguousKVCache, position: int, count: int, seed: int) -> list[torch.Tensor]:
    """Puts random rows at `position` and returns them."""
    news = filled(kv.layout.shapes, count, seed)
    kv.reserve(position, count)
    for space, new in zip(kv.views(position, count), news, strict=True):
        space.copy_(new)
    return news


def held(kv: ContiguousKVCache) -> list[torch.Tensor]:
    return kv.views(0, kv.n_rows)


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_row_takes_its_numbers_in_all_layers() -> None:
    assert ALIKE.row_bytes == 4 * 2 * 8 * 4
    assert UNLIKE.row_bytes == (16 + 12 + 5 + 12 + 16 + 24) * 4
    assert KVLayout(((2, 8),), torch.bfloat16, CPU).row_bytes == 32


def test_shapes_that_are_alike_share_a_tensor() -> None:
    assert ALIKE.groups == {(2, 8): [0, 1, 2, 3]}
    assert UNLIKE.groups == {(2, 8): [0, 4], (2, 6): [1, 3], (1, 5): [2], (4, 6): [5]}


@layouts
def test_room_and_rows_have_the_shapes_of_the_layout_in_its_order(layout: KVLayout) -> None:
    kv = ContiguousKVCache(layout)
    kv.reserve(0, 3)
    kv.reserve(3, 2)
    room, rows = kv.views(3, 2), kv.views(0, 5)
    assert [tuple(view.shape) for view in room] == [(heads, 2, width) for heads, width in layout.shapes]
    assert [tuple(view.shape) for view in rows] == [(heads, 5, width) for heads, width in layout.shapes]
    assert kv.n_rows == 5


@layouts
def test_what_is_written_into_the_room_is_seen_in_the_rows(layout: KVLayout) -> None:
    kv = ContiguousKVCache(layout)
    first = write(kv, 0, 3, seed=0)
    kv.reserve(3, 2)
    room, rows = kv.views(3, 2), kv.views(0, 5)
    news = filled(layout.shapes, 2, seed=1)
    with torch.inference_mode():
        for space, new in zip(room, news, strict=True):
            space.copy_(new)
    assert same(rows, [torch.cat(both, 1) for both in zip(first, news, strict=True)])


@layouts
def test_growing_keeps_all_rows(layout: KVLayout) -> None:
    kv = ContiguousKVCache(layout)
    parts = [write(kv, position, count, seed=position) for position, count in ((0, 1), (1, 62), (63, 90), (153, 300))]
    assert same(held(kv), [torch.cat(pieces, 1) for pieces in zip(*parts, strict=True)])


@layouts
def test_rows_that_follow_a_truncation_replace_those_that_were_taken_back(layout: KVLayout) -> None:
    kv = ContiguousKVCache(layout)
    first = write(kv, 0, 10, seed=0)
    kv.truncate(4)
    assert kv.n_rows == 4
    second = write(kv, 4, 100, seed=1)
    assert same(held(kv), [torch.cat([a[:, :4], b], 1) for a, b in zip(first, second, strict=True)])


def test_a_truncation_never_makes_a_session_longer() -> None:
    kv = ContiguousKVCache(ALIKE)
    kv.reserve(0, 5)
    kv.truncate(9)
    assert kv.n_rows == 5


def test_placing_at_an_earlier_position_takes_back_what_was_behind_it() -> None:
    kv = ContiguousKVCache(ALIKE)
    first = write(kv, 0, 10, seed=0)
    second = write(kv, 6, 1, seed=1)
    assert kv.n_rows == 7
    assert same(held(kv), [torch.cat([a[:, :6], b], 1) for a, b in zip(first, second, strict=True)])


@layouts
def test_a_copy_has_the_first_rows_and_a_memory_of_its_own(layout: KVLayout) -> None:
    kv, copy = ContiguousKVCache(layout), ContiguousKVCache(layout)
    first = write(kv, 0, 100, seed=0)
    copy.copy_from(kv, 70)
    assert copy.n_rows == 70
    assert same(held(copy), [tensor[:, :70] for tensor in first])
    write(copy, 0, 70, seed=1)
    assert same(held(kv), first)


def test_a_session_that_a_model_has_written_to_can_take_over_rows_when_none_runs() -> None:
    kv, copy = ContiguousKVCache(ALIKE), ContiguousKVCache(ALIKE)
    first = write(kv, 0, 10, seed=0)
    write(copy, 0, 3, seed=1)
    copy.copy_from(kv, 10)
    assert same(held(copy), first)


@layouts
def test_rows_do_not_follow_ones_that_were_never_placed(layout: KVLayout) -> None:
    kv = ContiguousKVCache(layout)
    first = write(kv, 0, 10, seed=0)
    kv.truncate(6)
    for position, count in ((7, 1), (64, 0), (700, 5)):
        with pytest.raises(PositionNotReached, match=f"of 6 rows, not of {position}"):
            kv.reserve(position, count)
    with pytest.raises(PositionNotReached):
        ContiguousKVCache(layout).copy_from(kv, 7)
    assert same(held(kv), [tensor[:, :6] for tensor in first])


def capacity(kv: ContiguousKVCache) -> int:
    storage = kv.views(0, kv.n_rows)[0].untyped_storage()
    return storage.nbytes() // kv.layout.row_bytes


def test_memory_doubles_so_that_few_growths_are_needed() -> None:
    kv, seen = ContiguousKVCache(ALIKE), []
    for position in range(600):
        kv.reserve(position, 1)
        seen.append(capacity(kv))
    assert sorted(set(seen)) == [64, 128, 256, 512, 1024]


def test_memory_never_exceeds_the_most_rows_that_a_session_may_have() -> None:
    kv = ContiguousKVCache(ALIKE, max_length=100)
    for position in range(100):
        kv.reserve(position, 1)
        assert capacity(kv) <= 100


def test_a_short_session_does_not_take_the_room_of_a_long_one() -> None:
    kv = ContiguousKVCache(ALIKE, max_length=10)
    kv.reserve(0, 1)
    assert capacity(kv) == 10
