"""Rows of closed sessions that an engine keeps for later ones that begin alike."""

from collections.abc import Callable, Sequence
from typing import Any

from splitlearn.kv.pages import PageLedger
from splitlearn.kv.prefixes import KeptPrefixes


class KeptRows:
    """Owns the keys and values of what is kept, and its pages in the ledger.

    Args:
        most: sessions kept; 0 keeps none.
        block_rows: rows of a block.
        ledger: the engine's. Owners of kept pages are negative numbers.
        let_go: gives up all but the first rows of a session, as many as it is told.
    """

    def __init__(self, most: int, block_rows: int, ledger: PageLedger, let_go: Callable[[Any, int], None]) -> None:
        self._index = KeptPrefixes(most)
        self._block_rows = block_rows
        self._ledger = ledger
        self._let_go = let_go
        self._kv: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._index)

    def find(self, names: Sequence[bytes], limit: int) -> tuple[Any, int] | None:
        """What begins with most of the blocks `names`, and how many rows of it, at most `limit`; None if nothing."""
        found = self._index.find(names)
        return None if found is None else (self._kv[found[0]], min(found[1] * self._block_rows, limit))

    def whole_blocks(self, names: Sequence[bytes], n_rows: int) -> Sequence[bytes]:
        """The names of blocks that `n_rows` rows fill, where keeping them adds something; else none."""
        names = names[: n_rows // self._block_rows]
        return () if not self._index.most or self._index.has(names) else names

    def keep(self, session: int, names: Sequence[bytes], kv: Any) -> None:
        """Takes over the pages of a session and its rows `kv`, which begin with the blocks `names`."""
        owner = -1 - session
        n_rows = len(names) * self._block_rows
        self._ledger.hold(session, n_rows)
        self._let_go(kv, n_rows)
        self._ledger.hand_over(session, owner)
        self._kv[owner] = kv
        for dropped in self._index.keep(owner, names):
            self._free(dropped)

    def give_up(self, missing: int) -> int:
        """Frees at least `missing` pages, the least recently used first, or everything; says how many."""
        freed = 0
        while freed < missing and len(self._index):
            oldest = self._index.oldest()
            self._index.drop(oldest)
            freed += self._free(oldest)
        return freed

    def _free(self, owner: int) -> int:
        freed = self._ledger.held_by(owner)
        self._ledger.release(owner)
        self._let_go(self._kv.pop(owner), 0)
        return freed
