"""Blocking classes for code without an event loop. Each is a facade: the async class does the work, elsewhere.

In a process that was forked from one in which any of them was used, every call raises Forked, and closing does nothing.
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
    """Serves a compute function. May be started and stopped from any thread; starts once and stops once.

    Args:
        host: 0.0.0.0 opens the port to the network.
        port: 0 picks a free one; `port` then tells it.
        max_workers: computes at a time, each on a thread; with more than one `compute_fn` must bear it.
        codec: of replies to clients that ask for none.
        version: of the service, where the function's own info gives none.
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
        """Returns the port once clients are served.

        Raises:
            PortUnavailable: somebody else listens there, or the host is not this machine's.
            Forked: see the module.
        """
        port = loop_thread().run(self._server.start())
        _serving.add(self)
        return port

    def stop(self, grace: float | None = None) -> None:
        """Refuse new calls, give running ones `grace` seconds, cut the rest. Twice does nothing."""
        close(self._server.stop(grace))

    def wait_for_termination(self) -> None:
        """Until stop() has been called from elsewhere, or this thread gets a KeyboardInterrupt."""
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
    """Ends servers that a script forgot: grpc would complain of each while the interpreter takes its modules apart."""
    for server in list(_serving):
        # by now the interpreter starts no threads, so that the port closes but compute functions are not torn down
        with suppress(RuntimeError):
            server.stop()


class GRPCComputeClient:
    """Asks a compute function elsewhere. Any number of threads may share one client.

    Args:
        address: `host:port`.
        timeout: seconds that a call waits at most; each retry has as many again.
        retry_strategy: for compute; None tries once.
        codec: what tensors travel in, both ways; None as they are.
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
        """Why connect or health_check said no when last asked; None when it said yes."""
        return self._trouble

    def connect(self) -> bool:
        """Whether a server answers. Not needed before the first compute."""
        try:
            loop_thread().run(self._client.connect())
        except CommError as error:
            self._trouble = str(error)
            return False
        self._trouble = None
        return True

    def compute(self, tensor: Tensor) -> Tensor:
        """One tensor in, one tensor out: on the CPU, writable, the caller's own.

        Raises:
            CommError: Unreachable, TimedOut and Overloaded after the last retry, others at once.
        """
        return loop_thread().run(self._client.compute(tensor))

    def health_check(self) -> bool:
        """Whether a server answers and says that it serves."""
        try:
            healthy = loop_thread().run(self._client.health())
        except CommError as error:
            self._trouble = str(error)
            return False
        self._trouble = None if healthy else f"the server at {self._client.target} says that it does not serve"
        return healthy

    def get_service_info(self) -> Mapping[str, object]:
        """`service_name`, `version`, `device`, `fingerprint`, `total_requests`, `uptime_seconds`, and whatever
        else the compute function's get_info told, as text.

        Raises:
            CommError: nobody answers, or not in time.
        """
        facts = asdict(loop_thread().run(self._client.service_info()))
        return {**facts.pop("attributes"), **facts}

    def get_statistics(self) -> dict[str, int | float]:
        """Counts and average times of this client's computes, among them `total_requests`, `failed_requests`,
        `retries`, `avg_network_time_ms`, `avg_compute_time_ms`."""
        return self._client.get_statistics()

    def close(self) -> None:
        """Cancel what is under way and hang up. Twice does nothing."""
        close(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
