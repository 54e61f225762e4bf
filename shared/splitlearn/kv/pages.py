"""How many rows fit into the memory for keys and values, counted in pages. Plain integers."""

from dataclasses import dataclass, field
from typing import Self

from splitlearn.errors import NoRoom

_WITHOUT_BOUND = 1 << 40


@dataclass
class PageLedger:
    """Says which session holds how many pages. The tensors are elsewhere; nothing here can fail half-way.

    Attributes:
        total: pages that there are.
        page_rows: rows of one session that one page holds.
    """

    total: int
    page_rows: int
    used: int = field(default=0, init=False)
    _held: dict[int, int] = field(default_factory=dict, init=False)

    @classmethod
    def within(cls, n_bytes: int | None, row_bytes: int, page_rows: int) -> Self:
        """For all pages that `n_bytes` hold; None is no bound.

        Raises:
            NoRoom: they hold none.
        """
        page_bytes = max(1, row_bytes) * page_rows
        total = _WITHOUT_BOUND if n_bytes is None else n_bytes // page_bytes
        if not total:
            raise NoRoom(
                f"{n_bytes} bytes for keys and values do not hold a single page of "
                f"{page_rows} rows ({page_bytes} bytes); give more, or free memory"
            )
        return cls(total, page_rows)

    @property
    def free(self) -> int:
        return self.total - self.used

    def held_by(self, owner: int) -> int:
        return self._held.get(owner, 0)

    def pages_for(self, n_rows: int) -> int:
        """Pages that `n_rows` rows of one session take."""
        return -(-n_rows // self.page_rows)

    def missing(self, owner: int, n_rows: int) -> int:
        """Pages that have to become free before `owner` can hold `n_rows` rows; 0 if it can now."""
        return max(0, self.pages_for(n_rows) - self.held_by(owner) - self.free)

    def hold(self, owner: int, n_rows: int) -> bool:
        """Lets `owner` hold just the pages for `n_rows` rows. False, and nothing changes, if there are too few."""
        if self.missing(owner, n_rows):
            return False
        pages = self.pages_for(n_rows)
        self.used += pages - self.held_by(owner)
        self._held[owner] = pages
        return True

    def hand_over(self, owner: int, heir: int) -> None:
        """Gives all pages of `owner` to `heir`, which holds none yet."""
        if heir in self._held:
            raise ValueError(f"{heir} holds pages of its own")
        if owner in self._held:
            self._held[heir] = self._held.pop(owner)

    def release(self, owner: int) -> None:
        """Takes everything from `owner`; nothing happens if it holds nothing."""
        self.used -= self._held.pop(owner, 0)

    def owners(self) -> frozenset[int]:
        return frozenset(self._held)

    def complaint(self) -> str | None:
        """What does not add up; None if everything does."""
        held = sum(self._held.values())
        if held != self.used:
            return f"{self.used} pages are counted as used, but sessions hold {held}"
        return f"{held} pages are held, but there are only {self.total}" if held > self.total else None
