"""Ctrl-C and SIGTERM for verbs that serve: both mean "stop cleanly", from the first import on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Runs the body until it ends or a signal comes; the signal then ends the body, and nothing is raised.

    A service that sets its own handlers takes over; this covers the seconds before, while it still loads.
    A shell's background job starts with SIGINT ignored, so that both handlers are set here.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOPPING}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
