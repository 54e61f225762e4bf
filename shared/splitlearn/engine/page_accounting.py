"""How many pages of keys and values each session holds. Plain integers: the tensors are elsewhere."""

from dataclasses import dataclass, field


@dataclass
class PageAccounting:
    """Counts the pages of each owner. Each call either succeeds or changes nothing.

    Owned by the event loop's thread; any thread may read `used` and `total`.

    Attributes:
        total: the number of pages.
        page_size: rows of one session that one page holds.
        used: the pages that have an owner.
    """

    total: int
    page_size: int
    used: int = field(default=0, init=False)
    _held: dict[int, int] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        return f"<PageAccounting {self.used}/{self.total} pages of {self.page_size} rows>"

    @property
    def free(self) -> int:
        return self.total - self.used

    def held_by(self, owner: int) -> int:
        return self._held.get(owner, 0)

    def pages_for(self, n_rows: int) -> int:
        """The pages that `n_rows` rows of one session take."""
        return -(-n_rows // self.page_size)

    def missing(self, owner: int, n_rows: int) -> int:
        """The pages that have to become free before `owner` can hold `n_rows` rows; 0 if it can now."""
        return max(0, self.pages_for(n_rows) - self.held_by(owner) - self.free)

    def reserve(self, owner: int, n_rows: int) -> bool:
        """Makes `owner` hold exactly the pages for `n_rows` rows. False, and nothing changes, if too few are free."""
        if self.missing(owner, n_rows):
            return False
        pages = self.pages_for(n_rows)
        self.used += pages - self.held_by(owner)
        self._held[owner] = pages
        return True

    def transfer(self, owner: int, new_owner: int) -> None:
        """Gives all pages of `owner` to `new_owner`.

        Raises:
            ValueError: `new_owner` holds pages already.
        """
        if new_owner in self._held:
            raise ValueError(f"{new_owner} holds pages of its own")
        if owner in self._held:
            self._held[new_owner] = self._held.pop(owner)

    def release(self, owner: int) -> None:
        """Frees all pages of `owner`; does nothing if it holds none."""
        self.used -= self._held.pop(owner, 0)

    def owners(self) -> frozenset[int]:
        return frozenset(self._held)

    def check_consistency(self) -> str | None:
        """What is inconsistent; None if nothing is."""
        held = sum(self._held.values())
        if held != self.used:
            return f"{self.used} pages are counted as used, but sessions hold {held}"
        return f"{held} pages are held, but there are only {self.total}" if held > self.total else None
