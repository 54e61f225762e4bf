"""How many pages of keys and values there is memory for. Plain integers."""

from dataclasses import dataclass
from typing import Self

from splitlearn.errors import NoRoom

_UNBOUNDED = 1 << 40


@dataclass(frozen=True)
class PageBudget:
    """The pages that the sessions of one engine may hold together.

    Attributes:
        n_pages: how many.
        page_size: rows of one session that a page holds.
    """

    n_pages: int
    page_size: int

    @classmethod
    def within(cls, n_bytes: int | None, row_bytes: int, page_size: int) -> Self:
        """As many pages as `n_bytes` hold; None for no bound.

        Raises:
            NoRoom: they do not hold one page.
        """
        page_bytes = max(1, row_bytes) * page_size
        n_pages = _UNBOUNDED if n_bytes is None else n_bytes // page_bytes
        if not n_pages:
            raise NoRoom(
                f"{n_bytes} bytes for keys and values do not hold a single page of "
                f"{page_size} rows ({page_bytes} bytes); give more, or free memory"
            )
        return cls(n_pages, page_size)
