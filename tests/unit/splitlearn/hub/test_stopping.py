import pytest

from splitlearn.errors import FetchStopped
from splitlearn.hub.stopping import Stop


def test_a_child_ends_with_its_parent_and_can_end_alone() -> None:
    parent = Stop()
    first, second = parent.child(), parent.child()
    first.set()
    assert (parent.is_set(), second.is_set()) == (False, False)
    parent.set()
    assert second.is_set()
    assert parent.child().is_set()


def test_what_checks_it_is_ended() -> None:
    stop = Stop()
    stop.check()
    stop.set()
    with pytest.raises(FetchStopped):
        stop.check()
