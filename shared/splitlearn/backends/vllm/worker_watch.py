"""Notices that one of the processes that share each layer is gone. Imports nothing of vLLM."""

import signal
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Lock, Thread

from splitlearn.errors import EngineFailed


class WorkerWatch:
    """The end of one process is the end of all: the others wait for its share of a layer without end.

    It is noticed at once, while a step runs and while none does. vLLM notices it too, and then gives the others
    seconds to end by themselves, in which a step that runs hangs.

    Args:
        workers: running children of this process; none if layers are computed in it.
    """

    def __init__(self, workers: Sequence[BaseProcess]) -> None:
        self._failure: EngineFailed | None = None
        self._tell: Callable[[EngineFailed], None] | None = None
        self._workers = tuple(workers)
        self._lock = Lock()
        self._is_closed = False
        self._closed, self._close = Pipe(duplex=False)
        self._thread = Thread(target=self._watch, name="vllm-worker-watch", daemon=True)
        self._thread.start()

    def on_failure(self, tell: Callable[[EngineFailed], None]) -> None:
        """As `Runner.on_failure`."""
        with self._lock:
            self._tell, failure = tell, self._failure
        if failure is not None:
            tell(failure)

    def fail(self, reason: str) -> EngineFailed:
        """Kills the processes, of which one has failed. From any thread.

        Returns:
            The error for those who wait for rows; its reason is that of the first call.
        """
        with self._lock:
            if self._failure is not None:
                return self._failure
            message = f"{reason}; the layers are computed no more until this trunk is started again"
            self._failure, tell = EngineFailed(message), self._tell
            for worker in self._workers:
                worker.kill()
        if tell is not None:
            tell(self._failure)
        return self._failure

    def close(self) -> None:
        """Must be called before the processes are ended on purpose."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._close.close()
        self._thread.join()
        self._closed.close()

    def _watch(self) -> None:
        ended = wait([self._closed, *(worker.sentinel for worker in self._workers)])
        if self._closed in ended:
            return
        worker = next(each for each in self._workers if each.sentinel in ended)
        # its files are closed before its exit code can be had
        worker.join()
        self.fail(f"a process of the engine {_how(worker.exitcode)}")


def _how(code: int | None) -> str:
    """The end of a process; its code is None if somebody else was told of it at the same time."""
    if code is None:
        return "has ended"
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"
