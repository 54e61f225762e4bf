"""Blocking classes for code without an event loop. Each is a facade of an async class that runs on another thread.

In a process that was forked from one that had used any of them, every call raises Forked, and closing does nothing.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Self

from torch import Tensor

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import PLAIN, ComputeFunction, ComputeOptions, TensorCodec
from splitlearn_comm.errors import CommError
from splitlearn_comm.loop_thread import close, loop_thread
from splitlearn_comm.retry import RetryStrategy
from splitlearn_comm.server import AsyncGRPCComputeServer


class GRPCComputeServer:
    """Serves a compute function. Any thread may start and stop it; it starts once and stops once.

    Args:
        host: 0.0.0.0 opens the port to the network.
        port: 0 picks a free port, which the property `port` then returns.
        max_workers: concurrent computes, each on its own thread; if more than 1, `compute_fn` must be thread-safe.
        codec: for replies to clients that request none.
        version: of the service, if the function's own info has none.
    """

    def __init__(
        self,
        compute_fn: ComputeFunction,
        host: str = "0.0.0.0",
        port: int = 50051,
        max_workers: int = 1,
        codec: TensorCodec | None = None,
        version: str = "1.0.0",
    ) -> None:
        options = ComputeOptions(max_workers, codec or PLAIN, version)
        self._server = AsyncGRPCComputeServer(host=host, port=port, compute_fn=compute_fn, compute_options=options)

    def __repr__(self) -> str:
        return repr(self._server).replace("<Async", "<", 1)

    @property
    def port(self) -> int:
        return self._server.port

    def start(self) -> int:
        """Start, and return the port once clients are served.

        Raises:
            PortUnavailable: the port is taken, or the host is not an address of this machine.
            Forked: see the module.
        """
        port = loop_thread().run(self._server.start())
        _serving.add(self)
        return port

    def stop(self, grace: float | None = None) -> None:
        """Refuse new calls, give running ones `grace` seconds, cut off the rest. Stopping twice does nothing."""
        close(self._server.stop(grace))

    def wait_for_termination(self) -> None:
        """Block until stop(), called from elsewhere, has finished, or this thread gets a KeyboardInterrupt."""
        loop_thread().run(self._server.wait_for_termination())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()


_serving: weakref.WeakSet[GRPCComputeServer] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stops servers that a script left running: grpc would complain about each one during interpreter shutdown."""
    for server in list(_serving):
        # the interpreter starts no more threads by now, so the port closes, but compute functions are not torn down
        with suppress(RuntimeError):
            server.stop()


class GRPCComputeClient:
    """Calls a compute function on a server. Any number of threads may share one client.

    Args:
        address: `host:port`.
        timeout: seconds that a call may take; each retry gets the full timeout.
        retry_strategy: for compute; None tries once.
        codec: encodes tensors in both directions; None sends them unencoded.
    """

    def __init__(
        self,
        address: str,
        timeout: float = 10.0,
        retry_strategy: RetryStrategy | None = None,
        codec: TensorCodec | None = None,
    ) -> None:
        self._client = AsyncGRPCComputeClient(address, timeout=timeout, retry_strategy=retry_strategy, codec=codec)
        self._trouble: str | None = None

    def __repr__(self) -> str:
        return repr(self._client).replace("<Async", "<", 1)

    @property
    def trouble(self) -> str | None:
        """Why the last connect or health_check returned False; None if it returned True."""
        return self._trouble

    def connect(self) -> bool:
        """Whether a server answers. Optional before the first compute."""
        try:
            loop_thread().run(self._client.connect())
        except CommError as error:
            self._trouble = str(error)
            return False
        self._trouble = None
        return True

    def compute(self, tensor: Tensor) -> Tensor:
        """Send one tensor and return the output: on the CPU, writable, owned by the caller.

        Raises:
            CommError: Unreachable, TimedOut and Overloaded after the last retry, others immediately.
        """
        return loop_thread().run(self._client.compute(tensor))

    def health_check(self) -> bool:
        """Whether a server answers and reports that it is serving."""
        try:
            healthy = loop_thread().run(self._client.health())
        except CommError as error:
            self._trouble = str(error)
            return False
        self._trouble = None if healthy else f"the server at {self._client.target} says that it does not serve"
        return healthy

    def get_service_info(self) -> Mapping[str, object]:
        """`service_name`, `version`, `device`, `fingerprint`, `total_requests`, `uptime_seconds`, and
        everything else that the compute function's get_info returned, as text.

        Raises:
            CommError: no server answers, or not in time.
        """
        facts = asdict(loop_thread().run(self._client.service_info()))
        # a compute function does not measure its load, and who tells replicas apart uses the asynchronous client
        del facts["load"], facts["instance"]
        return {**facts.pop("attributes"), **facts}

    def get_statistics(self) -> dict[str, int | float]:
        """Counts and average times of this client's computes, including `total_requests`, `failed_requests`,
        `retries`, `avg_network_time_ms`, `avg_compute_time_ms`."""
        return self._client.get_statistics()

    def close(self) -> None:
        """Cancel everything in progress and disconnect. Closing twice does nothing."""
        close(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
