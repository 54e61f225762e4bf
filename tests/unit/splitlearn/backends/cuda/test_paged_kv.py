"""Shapes: K heads, N rows held, d width of a head."""

import pytest
import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool
from splitlearn.errors import NoRoom, PositionNotReached, SessionClosed

CPU = torch.device("cpu")
ALIKE = KVLayout(((2, 8),) * 4, torch.float32, CPU)
UNLIKE = KVLayout(((2, 8), (2, 6), (1, 5), (2, 6), (2, 8), (4, 6)), torch.float32, CPU)
R = 4

layouts = pytest.mark.parametrize("layout", [ALIKE, UNLIKE], ids=["alike", "unlike"])


def pool_of(n_pages: int, layout: KVLayout = ALIKE) -> PagePool:
    return PagePool(layout, n_pages, R)


def placed(pool: PagePool, n_rows: int) -> PagedKVCache:
    kv = PagedKVCache(pool)
    pool.reserve([(kv, 0, n_rows)])
    return kv


def write(pool: PagePool, kv: PagedKVCache, n_rows: int, seed: int) -> list[torch.Tensor]:
    """Fills the first rows by hand, and returns them, [K, N, d] for each of the layout's shapes."""
    dice = torch.Generator().manual_seed(seed)
    news = [torch.randn(heads, n_rows, width, generator=dice) for heads, width in pool.layout.shapes]
    for pages_PRKd, new_KNd in zip(pool.pages, news, strict=True):
        for row in range(n_rows):
            pages_PRKd[kv.pages[row // R], row % R] = new_KNd[:, row]
    return news


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@layouts
def test_a_pool_takes_its_memory_once_and_one_page_more(layout: KVLayout) -> None:
    pool = pool_of(6, layout)
    assert sum(pages_PRKd.nbytes for pages_PRKd in pool.pages) == 7 * R * layout.row_bytes
    assert [tuple(rows.shape) for rows in pool.rows] == [(7 * R, *shape) for shape in layout.shapes]
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(pool.rows, pool.pages, strict=True))


def test_shapes_that_are_alike_share_a_tensor() -> None:
    pool = pool_of(3, UNLIKE)
    storages = [pages_PRKd.untyped_storage().data_ptr() for pages_PRKd in pool.pages]
    assert storages[0] == storages[4]
    assert storages[1] == storages[3]
    assert len(set(storages)) == 4


def test_sessions_have_pages_of_their_own_and_never_that_of_nobody() -> None:
    pool = pool_of(6)
    first, second = placed(pool, 9), placed(pool, 4)
    assert (len(first.pages), len(second.pages), pool.n_free) == (3, 1, 2)
    assert len({*first.pages, *second.pages, pool.null_page}) == 5
    pool.reserve([(first, 9, 3), (second, 4, 1)])
    assert (len(first.pages), len(second.pages), pool.n_free) == (3, 2, 1)
    assert (first.n_rows, second.n_rows) == (12, 5)


def test_a_pool_that_is_exhausted_says_so_and_changes_nobody() -> None:
    pool = pool_of(4)
    first, second = placed(pool, 8), placed(pool, 3)
    with pytest.raises(NoRoom, match="2 pages are wanted, 1 of 4 are free"):
        pool.reserve([(first, 8, 1), (second, 3, 5)])
    assert (first.n_rows, second.n_rows, pool.n_free) == (8, 3, 1)
    pool.reserve([(first, 8, 1)])
    assert pool.n_free == 0


def test_a_truncated_session_keeps_its_pages_as_the_accounting_does() -> None:
    pool = pool_of(4)
    kv = placed(pool, 9)
    pages = list(kv.pages)
    kv.truncate(2)
    assert (kv.n_rows, kv.pages) == (2, pages)
    pool.reserve([(kv, 2, 8)])
    assert (kv.n_rows, kv.pages) == (10, pages)


def test_a_session_gives_its_pages_back_at_the_next_step_and_not_before() -> None:
    pool = pool_of(3)
    kv = placed(pool, 12)
    kv.release()
    assert (pool.n_free, len(kv.pages)) == (0, 3)  # a step may be running with them
    other = placed(pool, 12)
    assert (kv.pages, len(other.pages)) == ([], 3)


@pytest.mark.parametrize("kept", [0, 4])
def test_a_session_that_was_let_go_takes_no_more_rows_and_fails_before_any_other_is_changed(kept: int) -> None:
    pool = pool_of(4)
    gone, other = placed(pool, 4), placed(pool, 4)
    gone.release(kept)
    with pytest.raises(SessionClosed):
        pool.reserve([(other, 4, 3), (gone, kept, 1)])
    assert (other.n_rows, other.pages, pool.n_free) == (4, other.pages[:1], 3 - bool(kept))


def test_rows_do_not_follow_ones_that_were_never_placed() -> None:
    pool = pool_of(6)
    kv, other = placed(pool, 5), placed(pool, 4)
    with pytest.raises(PositionNotReached, match="of 5 rows, not of 6"):
        pool.reserve([(other, 4, 3), (kv, 6, 1)])
    assert (kv.n_rows, other.n_rows, pool.n_free) == (5, 4, 3)
    kv.truncate(2)
    with pytest.raises(PositionNotReached, match="of 2 rows, not of 3"):
        PagedKVCache(pool).copy_from(kv, 3)
    assert pool.n_free == 3


def test_a_kept_session_gives_back_the_pages_behind_its_first_rows() -> None:
    pool = pool_of(5)
    kv = placed(pool, 20)
    news = write(pool, kv, 20, seed=0)
    kv.release(8)
    pool.collect()
    assert (len(kv.pages), pool.n_free) == (2, 3)
    assert same(kv.views(0, 8), [new_KNd[:, :8] for new_KNd in news])
    kv.release()
    pool.collect()
    assert pool.n_free == 5


@layouts
def test_a_copy_has_the_first_rows_and_pages_of_its_own(layout: KVLayout) -> None:
    pool = pool_of(8, layout)
    kept, kv = placed(pool, 11), PagedKVCache(pool)
    news = write(pool, kept, 11, seed=0)
    kv.copy_from(kept, 6)
    assert same(kv.views(0, 6), [new_KNd[:, :6] for new_KNd in news])
    assert not {*kv.pages} & {*kept.pages}
    write(pool, kv, 6, seed=1)
    assert same(kept.views(0, 11), news)


def test_rows_that_were_given_up_are_not_copied_even_while_they_are_there() -> None:
    pool = pool_of(8)
    kept, kv = placed(pool, 11), PagedKVCache(pool)
    kept.release(8)
    kv.copy_from(kept, 8)
    assert kv.n_rows == 8
    kept.release()
    with pytest.raises(PositionNotReached, match="evicted for others"):
        PagedKVCache(pool).copy_from(kept, 8)


def test_pages_go_from_hand_to_hand_without_loss() -> None:
    pool, dice = pool_of(12), torch.Generator().manual_seed(0)
    sessions: list[PagedKVCache] = []
    for _ in range(300):
        n_rows = int(torch.randint(1, 17, (1,), generator=dice))
        sessions.append(placed(pool, n_rows))
        assert len({page for kv in sessions for page in kv.pages}) == 12 - pool.n_free
        while len(sessions) > 2:
            sessions.pop(int(torch.randint(len(sessions), (1,), generator=dice))).release()
    for kv in sessions:
        kv.release()
    pool.collect()
    assert pool.n_free == 12
