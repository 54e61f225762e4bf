"""The server end: listen, health, reflection, stop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from splitlearn_comm import forks, wire
from splitlearn_comm.addresses import bare_host, check_host, join_address
from splitlearn_comm.admission import ServerLimits
from splitlearn_comm.authentication import TokenCheck
from splitlearn_comm.call_limit import CallLimit
from splitlearn_comm.compute_calls import ComputeCalls
from splitlearn_comm.core import ComputeFunction, ComputeOptions, NoObserver, SessionHost, WireObserver
from splitlearn_comm.health_server import HealthState
from splitlearn_comm.listening import add_port
from splitlearn_comm.options import server_options
from splitlearn_comm.service import ComputeService
from splitlearn_comm.token_files import Tokens


class AsyncGRPCComputeServer:
    """Serves sessions, a compute function, or both, on one port. Starts once and stops once.

    Args:
        host: an address of this machine, or a name for one; 0.0.0.0 and :: mean all addresses.
        port: 0 picks a free port.
        session_host: handles Stream. The service reports its info().
        compute_fn: handles Compute, on its own threads.
        compute_options: the number of threads, the codec and the version of `compute_fn`.
        observer: counts sessions, bytes and refusals.
        limits: what all clients together may use.
        credentials: for TLS, from `splitlearn_comm.tls` or `splitlearn_comm.pinned`; None serves without it.
        tokens: every call on this port, health and reflection included, must have one of them; None asks for none.
        health: the state to report, where another port reports it too.

    Raises:
        InvalidAddress: the host is neither an IP address nor a valid name.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        session_host: SessionHost | None = None,
        compute_fn: ComputeFunction | None = None,
        compute_options: ComputeOptions | None = None,
        observer: WireObserver | None = None,
        limits: ServerLimits | None = None,
        credentials: grpc.ServerCredentials | None = None,
        tokens: Tokens | None = None,
        health: HealthState | None = None,
    ) -> None:
        self.host = bare_host(host)
        self.port = port
        check_host(self.host)
        observer = observer or NoObserver()
        options = compute_options or ComputeOptions()
        computes = None if compute_fn is None else ComputeCalls(compute_fn, options, observer)
        self._limits = limits or ServerLimits()
        self._credentials = credentials
        checks = () if tokens is None else (TokenCheck(tokens, observer),)
        self._interceptors = (*checks, CallLimit())
        self._service = ComputeService(session_host, computes, observer, self._limits)
        self._health = health or HealthState()
        self._grpc: grpc.aio.Server | None = None
        self._stopped = asyncio.Event()

    def __repr__(self) -> str:
        state = "stopped" if self._grpc is None else "listening"
        return f"<{type(self).__name__} {join_address(self.host, self.port)} {state}>"

    async def start(self) -> int:
        """Listen, and report healthy.

        Returns:
            The port.

        Raises:
            PortUnavailable: the port is taken, or the host is not an address of this machine.
            Forked: this process was forked from one that had used gRPC.
        """
        forks.check()
        server = grpc.aio.server(interceptors=self._interceptors, options=server_options(self._limits.message_bytes))
        server.add_generic_rpc_handlers((self._service.handler(),))
        # NOT_SERVING until setup is done; Computes that arrive before wait for it
        self._health.add_to(server)
        reflection.enable_server_reflection((wire.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.port = await add_port(server, self.host, self.port, self._credentials)
        async with AsyncExitStack() as undo:
            # Started first, because grpc releases a server's port only if the server was started.
            await server.start()
            undo.push_async_callback(server.stop, None)
            await self._service.setup()
            await self.set_serving(True)
            undo.pop_all()
        self._grpc = server
        return self.port

    async def set_serving(self, serving: bool) -> None:
        """Set what the standard health service reports. Calls are served either way."""
        self._health.set_serving(serving)

    async def stop(self, grace: float | None = None) -> None:
        """Refuse new calls, give running ones `grace` seconds, cut off the rest; return when all sessions are closed.

        The client of a stream that is cut off gets Unreachable. Stopping a stopped server does nothing.
        """
        if self._grpc is None or forks.is_forked():
            return
        server, self._grpc = self._grpc, None
        self._health.end()
        self._service.release_idle()
        try:
            await server.stop(grace)
            await self._service.finish()
        finally:
            self._stopped.set()

    async def wait_for_termination(self) -> None:
        """Wait until stop(), called from elsewhere, has finished."""
        # Not grpc's own method: once a task is cancelled inside it, the server can never be stopped.
        if self._grpc is not None:
            await self._stopped.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop()
