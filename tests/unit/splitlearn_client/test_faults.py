import pytest

from splitlearn_client.faults import Fault, fault_of
from splitlearn_comm import errors
from splitlearn_comm.errors import ERRORS_BY_KIND

OWN = {"InvalidRequest", "InvalidTensor", "SessionTooLong", "PositionNotReached", "Cancelled", "Forked"}


@pytest.mark.parametrize("kind", sorted(ERRORS_BY_KIND))
def test_every_error_of_the_wire_is_the_session_s_or_the_replica_s(kind: str) -> None:
    found = fault_of(ERRORS_BY_KIND[kind]("message"))
    special = {"Overloaded": Fault.BUSY, "Draining": Fault.DRAINING, "NextStageFailed": Fault.LATER_STAGE}
    assert found is special.get(kind, Fault.OWN if kind in OWN else Fault.REPLICA)


def test_an_unknown_error_is_the_replica_s() -> None:
    assert fault_of(errors.CommError("unknown")) is Fault.REPLICA
