import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cuda.block_table import BlockTable
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool

R = 4
LAYOUT = KVLayout(((2, 8),) * 2, torch.float32, torch.device("cpu"))


def given(*sizes: tuple[int, int]) -> tuple[PagePool, list[tuple[PagedKVCache, int, int]]]:
    """Sessions whose pages lie in no order, with the rows that each has and brings."""
    pool = PagePool(LAYOUT, 20, R)
    sessions = [(PagedKVCache(pool), position, count) for position, count in sizes]
    for n_rows in range(1, 1 + max(position + count for position, count in sizes)):
        for kv, position, count in sessions:
            if n_rows <= position + count:
                kv.reserve(0, n_rows)
    return pool, sessions


def test_a_table_says_where_new_rows_go_and_where_all_are() -> None:
    pool, sessions = given((3, 3), (0, 9), (7, 1))
    table = BlockTable.of(pool, sessions)
    expected = [
        kv.pages[row // R] * R + row % R for kv, position, n in sessions for row in range(position, position + n)
    ]
    assert table.slot_mapping.tolist() == expected
    assert table.seqused_k.tolist() == [6, 9, 8]
    assert table.cu_seqlens_q.tolist() == [0, 3, 12, 13]
    assert table.cu_seqlens_k.tolist() == [0, 6, 15, 23]
    assert (table.max_seqlen_q, table.max_seqlen_k) == (9, 9)
    assert table.block_table.tolist() == [[*kv.pages, pool.null_page][:3] for kv, _, _ in sessions]


def test_numbers_have_the_types_that_kernels_read() -> None:
    pool, sessions = given((3, 3), (0, 9))
    table = BlockTable.of(pool, sessions)
    assert table.slot_mapping.dtype is torch.int64
    assert {each.dtype for each in table.tensors[1:]} == {torch.int32}
    assert all(each.is_contiguous() for each in table.tensors)


def test_a_padded_table_has_sessions_of_one_row_in_the_page_of_nobody() -> None:
    pool, sessions = given((6, 1), (2, 1))
    table = BlockTable.of(pool, sessions, n_sessions=4, n_pages=5)
    assert table.block_table.shape == (4, 5)
    assert table.block_table[2:].tolist() == [[pool.null_page] * 5] * 2
    assert table.slot_mapping[2:].tolist() == [pool.null_page * R] * 2
    assert table.seqused_k.tolist() == [7, 3, 1, 1]
    assert table.cu_seqlens_q.tolist() == [0, 1, 2, 3, 4]
    assert table.max_seqlen_k == 5 * R  # the same whatever the sessions hold


def test_a_table_takes_over_the_numbers_of_another_where_its_own_are() -> None:
    pool, sessions = given((6, 1), (2, 1))
    own = BlockTable.of(pool, sessions, 4, 5).to(LAYOUT.device)
    where = [tensor.data_ptr() for tensor in own.tensors]
    (first, _, _), (second, _, _) = sessions
    pool.reserve([(second, 3, 9)])
    pool.reserve([(first, 7, 1), (second, 12, 1)])
    new = BlockTable.of(pool, [(first, 7, 1), (second, 12, 1)], 4, 5)
    own.copy_(new)
    assert [tensor.data_ptr() for tensor in own.tensors] == where
    assert all(torch.equal(a, b) for a, b in zip(own.tensors, new.tensors, strict=True))
