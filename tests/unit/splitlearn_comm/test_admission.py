import pytest

from splitlearn_comm.admission import IDLE_SECONDS, SILENT_SECONDS, SMALL_BYTES, Admission, ServerLimits
from splitlearn_comm.errors import Overloaded


def test_places_are_as_many_as_the_limit_says_and_are_free_again() -> None:
    admission = Admission(ServerLimits(streams=2))
    first, _ = (admission.enter(0.0, lambda: None, "somebody") for _ in range(2))
    with pytest.raises(Overloaded, match="2 streams are open; the limit is 2") as refused:
        admission.enter(0.0, lambda: None, "somebody")
    assert refused.value.retry_after == 1.0
    admission.leave(first)
    admission.enter(0.0, lambda: None, "somebody")
    assert admission.n_open == 2


def test_a_new_stream_gets_the_place_of_the_one_that_is_silent_longest_and_of_none_that_works() -> None:
    admission, lost = Admission(ServerLimits(streams=3)), list[str]()
    working = admission.enter(0.0, lambda: lost.append("working"), "somebody")
    admission.works(working)
    silent = admission.enter(0.1, lambda: lost.append("silent"), "somebody")
    idle = admission.enter(0.0, lambda: lost.append("idle"), "somebody")
    admission.waits(idle, 0.0)

    with pytest.raises(Overloaded):
        admission.enter(SILENT_SECONDS, lambda: None, "somebody")
    admission.works(admission.enter(SILENT_SECONDS + 0.1, lambda: None, "somebody"))
    assert lost == ["silent"]
    admission.leave(silent)
    with pytest.raises(Overloaded):
        admission.enter(IDLE_SECONDS - 1, lambda: None, "somebody")
    admission.enter(IDLE_SECONDS, lambda: None, "somebody")
    admission.leave(idle)
    assert lost == ["silent", "idle"]
    assert admission.n_open == 3


def test_bytes_are_counted_while_they_are_held_and_small_frames_always_come_in() -> None:
    admission = Admission(ServerLimits(bytes_in_flight=10 * SMALL_BYTES))
    with admission.holding(9 * SMALL_BYTES):
        with pytest.raises(Overloaded, match="being worked on"), admission.holding(2 * SMALL_BYTES):
            pass
        with admission.holding(SMALL_BYTES), admission.holding(SMALL_BYTES):
            assert admission.bytes_in_flight == 11 * SMALL_BYTES
    assert admission.bytes_in_flight == 0


@pytest.mark.parametrize(
    ("memory", "streams"), [(0, 1), (2**22, 1), (7 * 2**28, 448), (2**32 - 1, 1023), (2**32, 1024), (2**40, 1024)]
)
def test_streams_that_stop_in_a_message_fit_in_memory_together(memory: int, streams: int) -> None:
    assert ServerLimits.streams_within(memory, 2**22) == streams


@pytest.mark.parametrize("name", ["message_bytes", "streams", "first_frame_seconds", "bytes_in_flight"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ServerLimits(**{name: 0})  # type: ignore[arg-type]
