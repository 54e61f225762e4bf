import pytest

from splitlearn_client.errors import TooBusy, TrunkFailed, TrunkNotReady, from_wire
from splitlearn_comm import FingerprintMismatch, Overloaded, TimedOut, Unreachable


@pytest.mark.parametrize(
    ("told", "passed_on"),
    [(None, 1.0), (0.0, 1.0), (2.5, 2.5), (float("nan"), 1.0), (float("inf"), 1.0), (-3.0, 1.0), (1e300, 3600.0)],
)
def test_a_trunk_at_capacity_is_429_with_a_time_that_a_header_can_hold(told: float | None, passed_on: float) -> None:
    error = from_wire(Overloaded("full", told), begun=True)
    assert (type(error), error.status, error.retry_after) == (TooBusy, 429, passed_on)


@pytest.mark.parametrize("begun", [False, True])
def test_a_trunk_that_says_nothing_has_failed(begun: bool) -> None:
    assert isinstance(from_wire(TimedOut("silent"), begun=begun), TrunkFailed)


@pytest.mark.parametrize("error", [Unreachable("gone"), FingerprintMismatch("other")])
def test_what_is_not_ready_is_so_only_before_the_first_token(error: Unreachable | FingerprintMismatch) -> None:
    assert isinstance(from_wire(error), TrunkNotReady)
    assert isinstance(from_wire(error, begun=True), TrunkFailed)
