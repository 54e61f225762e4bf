import random

import pytest

from splitlearn.kv.pages import PageLedger


@pytest.mark.parametrize(("n_rows", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_a_page_that_is_begun_is_taken_whole(n_rows: int, pages: int) -> None:
    assert PageLedger(10, 4).pages_for(n_rows) == pages


def test_a_session_holds_just_the_pages_for_its_rows() -> None:
    ledger = PageLedger(10, 4)
    assert ledger.hold(7, 9)
    assert (ledger.held_by(7), ledger.used, ledger.free) == (3, 3, 7)
    assert ledger.hold(7, 13)
    assert (ledger.held_by(7), ledger.used) == (4, 4)
    assert ledger.hold(7, 1)
    assert (ledger.held_by(7), ledger.used) == (1, 1)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    ledger = PageLedger(3, 4)
    assert ledger.hold(1, 4)
    assert ledger.hold(2, 4)
    assert not ledger.hold(1, 12)
    assert (ledger.held_by(1), ledger.held_by(2), ledger.free) == (1, 1, 1)
    assert ledger.hold(1, 8)
    assert ledger.free == 0


def test_it_says_how_many_pages_have_to_become_free() -> None:
    ledger = PageLedger(3, 4)
    ledger.hold(1, 8)
    assert ledger.missing(1, 12) == 0  # its own two count
    assert ledger.missing(1, 13) == 1
    assert ledger.missing(2, 4) == 0
    assert ledger.missing(2, 12) == 2


def test_whoever_lets_go_has_nothing_left_and_may_do_so_twice() -> None:
    ledger = PageLedger(3, 4)
    ledger.hold(1, 8)
    ledger.release(1)
    ledger.release(1)
    ledger.release(99)
    assert (ledger.used, ledger.held_by(1), ledger.owners()) == (0, 0, frozenset())


def test_pages_are_handed_over_as_they_are() -> None:
    ledger = PageLedger(3, 4)
    ledger.hold(1, 8)
    ledger.hand_over(1, -1)
    assert (ledger.held_by(1), ledger.held_by(-1), ledger.used) == (0, 2, 2)
    ledger.hand_over(55, 56)
    assert ledger.owners() == {-1}


def test_an_heir_with_pages_of_its_own_is_refused() -> None:
    ledger = PageLedger(3, 4)
    ledger.hold(1, 4)
    ledger.hold(2, 4)
    with pytest.raises(ValueError, match="2 holds pages of its own"):
        ledger.hand_over(1, 2)
    assert ledger.owners() == {1, 2}


def test_a_ledger_that_does_not_add_up_says_what_is_wrong() -> None:
    ledger = PageLedger(3, 4)
    ledger.hold(1, 8)
    assert ledger.complaint() is None
    ledger.used = 1
    assert "1 pages are counted as used, but sessions hold 2" in str(ledger.complaint())
    ledger.used, ledger.total = 2, 1
    assert "there are only 1" in str(ledger.complaint())


@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_calls_gives_away_more_pages_than_there_are(seed: int) -> None:
    dice = random.Random(seed)
    ledger = PageLedger(17, 4)
    for _ in range(2000):
        owner, rows = dice.randrange(8), dice.randrange(40)
        missing = ledger.missing(owner, rows)
        action = dice.choice(("hold", "hold", "hold", "release", "hand over"))
        if action == "hold":
            assert ledger.hold(owner, rows) == (missing == 0)
        elif action == "release":
            ledger.release(owner)
        elif (heir := dice.randrange(8)) not in ledger.owners():
            ledger.hand_over(owner, heir)
        assert ledger.complaint() is None
        assert 0 <= ledger.used <= 17
        assert ledger.used == sum(ledger.held_by(owner) for owner in ledger.owners())
