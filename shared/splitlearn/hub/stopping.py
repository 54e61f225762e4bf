"""A request to stop, which reaches everything that was started for it."""

import threading

from splitlearn.errors import FetchStopped


class Stop(threading.Event):
    """An event whose children are set with it, and can be set alone."""

    def __init__(self) -> None:
        super().__init__()
        self._children: list[Stop] = []
        self._growing = threading.Lock()

    def child(self) -> "Stop":
        """Set when this is set."""
        child = Stop()
        with self._growing:
            self._children.append(child)
            if self.is_set():
                child.set()
        return child

    def set(self) -> None:
        """As of an event, with all children."""
        with self._growing:
            super().set()
            for child in self._children:
                child.set()

    def check(self) -> None:
        """Raises FetchStopped once it is set."""
        if self.is_set():
            raise FetchStopped("the fetching was stopped; what was fetched is kept")
