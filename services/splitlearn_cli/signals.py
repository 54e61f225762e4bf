"""Ctrl-C and SIGTERM for verbs that serve: both stop the verb cleanly, even while it still imports."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """A signal ends the body of the context without an error.

    Covers the seconds until a service sets its own handlers. Sets both handlers, because a shell starts background jobs
    with SIGINT ignored.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOPPING}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
