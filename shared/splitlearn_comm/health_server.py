"""The standard health protocol: what a process reports, and a plain port that reports it and nothing else."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitlearn_comm import forks, wire
from splitlearn_comm.addresses import bare_host, check_host, join_address
from splitlearn_comm.call_limit import CallLimit
from splitlearn_comm.listening import add_port
from splitlearn_comm.options import server_options

# In the standard health protocol, "" stands for the server as a whole.
HEALTH_NAMES: Final = ("", wire.SERVICE)
LIVENESS: Final = "liveness"

# The name of a service is all that a request holds.
_LONGEST_NAME: Final = 256
_MESSAGE_BYTES: Final = 1024
# A Watch lasts as long as its caller likes.
_MOST_CALLS: Final = 256


_STATUS: Final = health_pb2.HealthCheckResponse


class _Servicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """grpc.health.v1. grpc's own servicer holds a lock while it writes to a watcher, and one that does not read would
    stop all others, and every change of state."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()

    def set(self, statuses: dict[str, int]) -> None:
        """Replaces all that is reported; watchers are told as far as they read."""
        self._statuses = statuses
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802 - as in the protocol
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this server has no service of that name")
        return _STATUS(status=status)

    async def Watch(  # noqa: N802 - as in the protocol
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        name, told = request.service, None
        if len(name) > _LONGEST_NAME:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a name has at most {_LONGEST_NAME} characters")
        while True:
            changed, status = self._changed, self._statuses.get(name, _STATUS.SERVICE_UNKNOWN)
            if status != told:
                await context.write(_STATUS(status=status))
                told = status
            await changed.wait()


class HealthState:
    """Whether a process serves: one state for all of its ports. Used on one event loop.

    The name `LIVENESS` is SERVING as long as the event loop answers. An orchestrator that restarts what is not alive
    asks for it: a restart helps neither a process that still loads nor one that drains or has damaged weights.
    """

    def __init__(self) -> None:
        self._servicer = _Servicer()
        self._is_serving = False
        self._has_ended = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds grpc.health.v1.Health to a server that has not started."""
        self._publish()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def set_serving(self, serving: bool) -> None:
        """Sets what every port reports; ignored after `end`."""
        self._is_serving = serving and not self._has_ended
        self._publish()

    def end(self) -> None:
        """Reports NOT_SERVING from here on."""
        self._has_ended = True
        self.set_serving(False)

    def _publish(self) -> None:
        serving = _STATUS.SERVING if self._is_serving else _STATUS.NOT_SERVING
        self._servicer.set({LIVENESS: _STATUS.SERVING, **dict.fromkeys(HEALTH_NAMES, serving)})


class HealthServer:
    """Serves a state over a port without TLS, for probes that speak none. Starts once and stops once.

    Args:
        state: what it reports; other ports may report it too.
        host: an address of this machine, or a name for one.
        port: 0 picks a free port.

    Raises:
        InvalidAddress: the host is neither an IP address nor a valid name.
    """

    def __init__(self, state: HealthState, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = bare_host(host)
        self.port = port
        check_host(self.host)
        self._state = state
        self._grpc: grpc.aio.Server | None = None

    def __repr__(self) -> str:
        state = "stopped" if self._grpc is None else "listening"
        return f"<{type(self).__name__} {join_address(self.host, self.port)} {state}>"

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            PortUnavailable: the port is taken, or the host is not an address of this machine.
            Forked: this process was forked from one that had used gRPC.
        """
        forks.check()
        server = grpc.aio.server(
            interceptors=(CallLimit(),), options=server_options(_MESSAGE_BYTES), maximum_concurrent_rpcs=_MOST_CALLS
        )
        self._state.add_to(server)
        self.port = await add_port(server, self.host, self.port)
        await server.start()
        self._grpc = server
        return self.port

    async def stop(self) -> None:
        """End all calls. Stopping a stopped server does nothing."""
        if self._grpc is None or forks.is_forked():
            return
        server, self._grpc = self._grpc, None
        await server.stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop()
