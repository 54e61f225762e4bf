"""Keys and values of all sessions in the pages of one pool, for attention that reads block tables.

Shapes: P pages, R rows of a page, K heads, d width of a head, N rows held.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from splitlearn.attention.kv_layout import KVLayout, check_held
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.errors import NoRoom, PositionNotReached, SessionClosed


class PagePool:
    """All pages of one part, allocated at once. One more, the null page, belongs to no session; padding goes there.

    One thread runs steps and moves pages. Any thread may release a session while no step runs with it: its pages return
    when the first thread calls `collect`, before the next step that could need them.

    Args:
        n_pages: for sessions; memory is taken for one more.
        page_rows: rows of a page.

    Attributes:
        pages: for each of the layout's shapes [P, R, K, d]. Equal shapes share an allocation.
        rows: the same as [P * R, K, d].
    """

    def __init__(self, layout: KVLayout, n_pages: int, page_rows: int) -> None:
        self.layout, self.total, self.page_rows = layout, n_pages, page_rows
        self.null_page = n_pages
        self._groups = [
            # zeros, because a kernel may multiply rows that were never written by a weight of zero
            torch.zeros(len(indices), n_pages + 1, page_rows, *shape, dtype=layout.dtype, device=layout.device)
            for shape, indices in layout.groups.items()
        ]
        self.pages: list[torch.Tensor] = [torch.empty(0)] * len(layout.shapes)
        for group, indices in zip(self._groups, layout.groups.values(), strict=True):
            for index, pages_PRKd in zip(indices, group.unbind(0), strict=True):
                self.pages[index] = pages_PRKd
        self.rows = [pages_PRKd.flatten(0, 1) for pages_PRKd in self.pages]
        self._free = list(range(n_pages))[::-1]
        self._returned: deque[tuple[PagedKVCache, int]] = deque()

    @property
    def n_free(self) -> int:
        return len(self._free)

    def pages_for(self, n_rows: int) -> int:
        return -(-n_rows // self.page_rows)

    def reserve(self, sessions: "Sequence[SequenceSlice[PagedKVCache]]") -> None:
        """Truncates each session to its slice's start, and reserves pages for the slice.

        Raises:
            NoRoom: there are too few pages; no session was changed.
            PositionNotReached, SessionClosed: a session does not hold the rows that it keeps, or was released; none
                was changed.
        """
        self.collect()
        for kv, position, _ in sessions:
            kv.check(position)
        wanted = sum(kv.missing(position + count) for kv, position, count in sessions)
        if wanted > self.n_free:
            raise NoRoom(f"{wanted} pages are wanted, {self.n_free} of {self.total} are free: release sessions first")
        for kv, position, count in sessions:
            kv.reserve(position, count)

    def collect(self) -> None:
        """Frees the pages of released sessions."""
        while self._returned:
            kv, n_rows = self._returned.popleft()
            kept = self.pages_for(n_rows)
            self._free += kv.pages[kept:][::-1]
            del kv.pages[kept:]

    def take(self, count: int) -> list[int]:
        if count > self.n_free:
            raise NoRoom(f"{count} pages are wanted, {self.n_free} of {self.total} are free: release sessions first")
        return [self._free.pop() for _ in range(count)]

    def give_up(self, kv: "PagedKVCache", n_rows: int) -> None:
        """The pages of `kv` behind its first `n_rows` rows go back at the next `collect`. From any thread."""
        self._returned.append((kv, n_rows))

    @torch.inference_mode()
    def copy(self, pages: list[int], to: list[int]) -> None:
        """Copies pages in all layers."""
        device = self.layout.device
        from_P, to_P = torch.tensor(pages, device=device), torch.tensor(to, device=device)
        for group in self._groups:
            group.index_copy_(1, to_P, group.index_select(1, from_P))


class PagedKVCache:
    """The keys and values of one session, in pages of a pool.

    Attributes:
        pages: in the order of its rows.
        rows_after_release: None until it is released; then the rows that it still has.
    """

    def __init__(self, pool: PagePool) -> None:
        self.layout = pool.layout
        self.n_rows = 0
        self.pages: list[int] = []
        self.rows_after_release: int | None = None
        self._pool = pool

    def __repr__(self) -> str:
        return f"<PagedKVCache {self.n_rows} rows in {len(self.pages)} pages>"

    def missing(self, n_rows: int) -> int:
        """Pages that it lacks to hold `n_rows` rows."""
        return max(0, self._pool.pages_for(n_rows) - len(self.pages))

    def check(self, position: int) -> None:
        """Passes if rows may follow its first `position` rows; raises as `reserve` does if not."""
        if self.rows_after_release is not None:
            raise SessionClosed("the keys and values of this session were released: it takes no more rows")
        check_held(self.n_rows, position)

    def reserve(self, position: int, count: int) -> None:
        """Keeps the first `position` rows and reserves pages for `count` more.

        Raises:
            NoRoom: there are too few pages; nothing was changed.
            PositionNotReached: it holds fewer than `position`.
            SessionClosed: it was released.
        """
        self.check(position)
        self.pages += self._pool.take(self.missing(position + count))
        self.n_rows = position + count

    def first_pages(self, n_rows: int) -> list[int]:
        """Where its first `n_rows` rows are."""
        return self.pages[: self._pool.pages_for(n_rows)]

    def views(self, start: int, count: int) -> list[torch.Tensor]:
        """Copies of the rows from `start` on, [K, count, d] for each of the layout's shapes."""
        pages_P = torch.tensor(self.pages, dtype=torch.long, device=self.layout.device)
        return [
            pages_PRKd[pages_P].flatten(0, 1)[start : start + count].transpose(0, 1) for pages_PRKd in self._pool.pages
        ]

    def truncate(self, position: int) -> None:
        """Keeps at most the first `position` rows, and all pages: the engine counts them as held, too."""
        self.n_rows = min(self.n_rows, position)

    def copy_from(self, other: Any, count: int) -> None:
        """Takes over the first `count` rows of another session of the pool.

        Raises:
            PositionNotReached: the other one does not hold them, or was released without them.
        """
        # first, so that what is seen of the other one holds until its rows are copied
        self._pool.collect()
        if other.rows_after_release is not None and other.rows_after_release < count:
            raise PositionNotReached("the cached rows were evicted for others: send everything again from 0")
        check_held(other.n_rows, count)
        self.reserve(0, count)
        self.n_rows = 0
        n_pages = self._pool.pages_for(count)
        self._pool.copy(other.pages[:n_pages], self.pages[:n_pages])
        self.n_rows = count

    def release(self, n_rows: int = 0) -> None:
        """Gives up all but the first `n_rows` rows; takes no more of them. From any thread."""
        self.rows_after_release = n_rows
        self._pool.give_up(self, n_rows)
