import pytest

from splitlearn.attention.page_budget import PageBudget
from splitlearn.errors import NoRoom


def test_a_budget_is_the_number_of_whole_pages_that_fit() -> None:
    assert PageBudget.within(1000, row_bytes=10, page_size=32) == PageBudget(3, 32)


def test_memory_that_does_not_hold_one_page_is_refused() -> None:
    with pytest.raises(
        NoRoom, match=r"319 bytes for keys and values do not hold a single page of 32 rows \(320 bytes\)"
    ):
        PageBudget.within(319, row_bytes=10, page_size=32)


def test_without_a_bound_there_are_more_pages_than_anybody_fills() -> None:
    assert PageBudget.within(None, row_bytes=10, page_size=32).n_pages > 10**12


def test_a_part_whose_layers_keep_nothing_has_a_budget_too() -> None:
    assert PageBudget.within(320, row_bytes=0, page_size=32).n_pages == 10
