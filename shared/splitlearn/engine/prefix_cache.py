"""The first rows of closed sessions, cached for later sessions that begin alike. On the event loop alone."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.prefix_index import PrefixIndex
from splitlearn.runner.interface import SequenceSlice


class PrefixCache:
    """Owns the keys and values of the cached prefixes, and their pages.

    Args:
        max_prefixes: cached prefixes at a time; 0 caches none.
        block_size: rows of a block.
        pages: the engine's. Cached prefixes have negative numbers as owners.
        release: frees all but the first rows of a session, as many as its second argument says.
    """

    def __init__(
        self, max_prefixes: int, block_size: int, pages: PageAccounting, release: Callable[[Any, int], None]
    ) -> None:
        self._index = PrefixIndex(max_prefixes)
        self._block_size = block_size
        self._pages = pages
        self._release = release
        self._kv: dict[int, Any] = {}
        self._owners = count(-1, -1)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"<PrefixCache {len(self)}/{self._index.max_prefixes} prefixes>"

    @property
    def n_pages(self) -> int:
        """Pages that cached prefixes hold, and that become free when sessions need them."""
        return sum(self._pages.held_by(owner) for owner in self._kv)

    def find(self, block_hashes: Sequence[bytes], max_length: int) -> SequenceSlice[Any] | None:
        """The cached rows that share most blocks with `block_hashes`, at most `max_length`; None without a match."""
        found = self._index.find(block_hashes)
        if found is None:
            return None
        owner, n_blocks = found
        return SequenceSlice(self._kv[owner], 0, min(n_blocks * self._block_size, max_length))

    def cacheable_blocks(self, block_hashes: Sequence[bytes], n_rows: int) -> Sequence[bytes]:
        """The hashes of the blocks that `n_rows` rows fill; none if they are cached already."""
        block_hashes = block_hashes[: n_rows // self._block_size]
        return () if not self._index.max_prefixes or self._index.contains(block_hashes) else block_hashes

    def insert(self, session: int, block_hashes: Sequence[bytes], kv: Any) -> None:
        """Takes over the pages and the rows `kv` of a session, as far as its blocks go; frees the others."""
        owner = next(self._owners)
        n_rows = len(block_hashes) * self._block_size
        self._pages.reserve(session, n_rows)
        self._release(kv, n_rows)
        self._pages.transfer(session, owner)
        self._kv[owner] = kv
        for evicted in self._index.insert(owner, block_hashes):
            self._free(evicted)

    def evict(self, n_pages: int) -> int:
        """Frees at least `n_pages` pages, the least recently used prefix first, or all; returns how many."""
        freed = 0
        while freed < n_pages and len(self._index):
            owner = self._index.least_recently_used()
            self._index.remove(owner)
            freed += self._free(owner)
        return freed

    def _free(self, owner: int) -> int:
        freed = self._pages.held_by(owner)
        self._pages.release(owner)
        self._release(self._kv.pop(owner), 0)
        return freed
