import random

import pytest

from splitlearn.engine.page_accounting import PageAccounting


@pytest.mark.parametrize(("n_rows", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_a_session_takes_whole_pages(n_rows: int, pages: int) -> None:
    assert PageAccounting(10, 4).pages_for(n_rows) == pages


def test_a_session_holds_exactly_the_pages_for_its_rows() -> None:
    pages = PageAccounting(10, 4)
    assert pages.reserve(7, 9)
    assert (pages.held_by(7), pages.used, pages.free) == (3, 3, 7)
    assert pages.reserve(7, 13)
    assert (pages.held_by(7), pages.used) == (4, 4)
    assert pages.reserve(7, 1)
    assert (pages.held_by(7), pages.used) == (1, 1)


def test_a_reservation_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    pages = PageAccounting(3, 4)
    assert pages.reserve(1, 4)
    assert pages.reserve(2, 4)
    assert not pages.reserve(1, 12)
    assert (pages.held_by(1), pages.held_by(2), pages.free) == (1, 1, 1)
    assert pages.reserve(1, 8)
    assert pages.free == 0


def test_missing_is_the_number_of_pages_that_have_to_become_free() -> None:
    pages = PageAccounting(3, 4)
    pages.reserve(1, 8)
    assert pages.missing(1, 12) == 0  # its own two count
    assert pages.missing(1, 13) == 1
    assert pages.missing(2, 4) == 0
    assert pages.missing(2, 12) == 2


def test_an_owner_may_release_its_pages_twice() -> None:
    pages = PageAccounting(3, 4)
    pages.reserve(1, 8)
    pages.release(1)
    pages.release(1)
    pages.release(99)
    assert (pages.used, pages.held_by(1), pages.owners()) == (0, 0, frozenset())


def test_a_transfer_moves_all_pages() -> None:
    pages = PageAccounting(3, 4)
    pages.reserve(1, 8)
    pages.transfer(1, -1)
    assert (pages.held_by(1), pages.held_by(-1), pages.used) == (0, 2, 2)
    pages.transfer(55, 56)
    assert pages.owners() == {-1}


def test_a_new_owner_with_pages_of_its_own_is_refused() -> None:
    pages = PageAccounting(3, 4)
    pages.reserve(1, 4)
    pages.reserve(2, 4)
    with pytest.raises(ValueError, match="2 holds pages of its own"):
        pages.transfer(1, 2)
    assert pages.owners() == {1, 2}


def test_an_inconsistency_is_named() -> None:
    pages = PageAccounting(3, 4)
    pages.reserve(1, 8)
    assert pages.check_consistency() is None
    pages.used = 1
    assert "1 pages are counted as used, but sessions hold 2" in str(pages.check_consistency())
    pages.used, pages.total = 2, 1
    assert "there are only 1" in str(pages.check_consistency())


@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_calls_hands_out_more_pages_than_there_are(seed: int) -> None:
    dice = random.Random(seed)
    pages = PageAccounting(17, 4)
    for _ in range(2000):
        owner, rows = dice.randrange(8), dice.randrange(40)
        missing = pages.missing(owner, rows)
        action = dice.choice(("reserve", "reserve", "reserve", "release", "transfer"))
        if action == "reserve":
            assert pages.reserve(owner, rows) == (missing == 0)
        elif action == "release":
            pages.release(owner)
        elif (new_owner := dice.randrange(8)) not in pages.owners():
            pages.transfer(owner, new_owner)
        assert pages.check_consistency() is None
        assert 0 <= pages.used <= 17
        assert pages.used == sum(pages.held_by(owner) for owner in pages.owners())
