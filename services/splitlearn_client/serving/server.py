"""The HTTP server: uvicorn with this service's limits and graceful shutdown."""

import asyncio
import math
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from splitlearn_client.errors import UnknownHost
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.serving.access import Access
from splitlearn_client.serving.authorization import Authorization
from splitlearn_client.serving.bodies import Bodies, BodyLimits
from splitlearn_client.serving.connections import ConnectionLimits, Connections, most_connections
from splitlearn_client.serving.draining import Draining
from splitlearn_client.serving.hosts import AllowedHosts
from splitlearn_client.serving.https import HTTPSCertificate
from splitlearn_client.serving.json_size import MostIds
from splitlearn_client.serving.listening import is_local, stop_accepting
from splitlearn_client.serving.origins import readable_from
from splitlearn_client.serving.refusing import Incoming, refuse
from splitlearn_client.serving.tenant_directory import TenantDirectory
from splitlearn_client.settings import ClientSettings, parse_hosts, parse_origins

log = structlog.get_logger()

# all request bodies together may have this many times --max-body
_LONG_BODIES = 8
# how long dropped requests may take to clean up
_DROP_SECONDS = 1.0


class HTTPServer:
    """Serves one application on listening sockets, until it is stopped.

    Args:
        routes: the application's; requests are counted by their paths.
        tenants: who is let in.
        certificate: None serves plain HTTP.
        context: gives the model's context in tokens; None without a limit, or before it is known.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[BaseRoute],
        settings: ClientSettings,
        metrics: ClientMetrics,
        tenants: TenantDirectory,
        certificate: HTTPSCertificate | None = None,
        context: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._app = app
        self._routes = routes
        self._metrics = metrics
        self._tenants = tenants
        self._certificate = certificate
        self._context = context
        self._stopping = asyncio.Event()
        self._dropping = asyncio.Event()

    def stop(self) -> None:
        """Lets running requests end within the shutdown timeout; a second call drops them."""
        if self._stopping.is_set():
            self._dropping.set()
        self._stopping.set()

    async def run(self, sockets: Sequence[socket.socket]) -> None:
        """Returns after `stop`, when no request runs and the sockets are closed."""
        settings = self._settings
        together = _LONG_BODIES * settings.max_body
        limits = BodyLimits(settings.max_body, together, settings.body_timeout, lambda: MostIds.of(self._context()))
        named = None if settings.allowed_hosts is None else parse_hosts(settings.allowed_hosts)
        hosts = AllowedHosts.of(named, settings.host, only_loopback=is_local(sockets))
        admitted = Bodies(self._app, limits)
        authorized = Authorization(admitted, self._tenants, settings.protect_metrics, self._metrics.tenant_request)
        draining = Draining(_Hosts(authorized, hosts), self._metrics.drained)
        origins = parse_origins(settings.allowed_origins or "")
        metrics = self._metrics
        access = Access(readable_from(origins, draining), self._routes, metrics.http_request, metrics.refusal)
        connections = Connections(_connection_limits(settings), access.refused_early)
        server = _Uvicorn(_config(access, connections, settings, self._certificate))
        watching = asyncio.create_task(self._watch(connections))
        serving = asyncio.create_task(server.serve(list(sockets)))
        stopping = asyncio.create_task(self._stop(draining, connections, server))
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await serving
        finally:
            connections.drop_all()
            tasks = {watching, stopping, serving}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _watch(self, connections: Connections) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(connections.watch())
            group.create_task(self._tenants.watch())
            if self._certificate is not None:
                group.create_task(self._certificate.watch())

    async def _stop(self, draining: Draining, connections: Connections, server: uvicorn.Server) -> None:
        await self._stopping.wait()
        self._metrics.draining.set(1)
        log.info("stopping", shutdown_timeout=self._settings.shutdown_timeout)
        try:
            await self._end(draining, connections)
        finally:
            server.should_exit = True

    async def _end(self, draining: Draining, connections: Connections) -> None:
        finishing = asyncio.create_task(draining.finish(self._settings.shutdown_timeout))
        dropping = asyncio.create_task(self._dropping.wait())
        await asyncio.wait({finishing, dropping}, return_when=asyncio.FIRST_COMPLETED)
        dropping.cancel()
        if not finishing.done():
            draining.drop()
        # callers of the remaining requests do not read
        connections.drop_busy()
        await asyncio.wait({finishing}, timeout=_DROP_SECONDS)
        finishing.cancel()


class _Hosts:
    """ASGI middleware that refuses requests with a Host that is not allowed."""

    def __init__(self, app: ASGIApp, allowed: AllowedHosts) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # HTTP/1.0 requests may have no Host; a browser's always do
        host = dict(scope["headers"]).get(b"host") if scope["type"] == "http" else None
        if host is None or self._allowed.allow(host.decode("latin-1")):
            await self._app(scope, receive, send)
            return
        text = "the Host of the request is not allowed; name it in --allowed-hosts"
        await refuse(scope, Incoming(receive), send, UnknownHost(text))


class _Uvicorn(uvicorn.Server):
    """uvicorn whose end is this service's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # signals are the composition root's: uvicorn's own handlers would bypass `HTTPServer.stop`
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await stop_accepting(self.servers)
        await super().shutdown(sockets)


def _connection_limits(settings: ClientSettings) -> ConnectionLimits:
    return ConnectionLimits(
        settings.max_connections or most_connections(),
        settings.header_timeout,
        settings.send_timeout,
        settings.timeout_keep_alive,
    )


def _config(
    app: ASGIApp, connections: Connections, settings: ClientSettings, certificate: HTTPSCertificate | None
) -> uvicorn.Config:
    # typed as a class, but only called
    protocol: Any = connections.protocol
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
        timeout_keep_alive=math.ceil(settings.timeout_keep_alive),
        # all requests have ended by then; this covers only responses that are still being sent
        timeout_graceful_shutdown=1,
    )
