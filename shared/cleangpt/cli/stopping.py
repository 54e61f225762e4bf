"""Ctrl-C and SIGTERM end a training after its current step, with a checkpoint."""

import signal
from types import FrameType
from typing import Any, ClassVar

from cleangpt.trainers import Callback, Run


class StopOnSignal(Callback):
    """Handles SIGINT and SIGTERM during a training; a second signal ends the process at once.

    `came` is True once a signal arrived.
    """

    everywhere: ClassVar[bool] = True

    def __init__(self) -> None:
        self.came = False
        self._run: Run | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_begin(self, run: Run) -> None:
        self._run = run
        self._before = {each: signal.signal(each, self._stop) for each in (signal.SIGINT, signal.SIGTERM)}

    def on_end(self, run: Run) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.came = True
        if self._run is not None:
            self._run.stop(signal.Signals(number).name)
        for each, handler in self._before.items():
            signal.signal(each, handler)
