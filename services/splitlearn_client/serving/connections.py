"""Limits on the number of connections and on their time: uvicorn's protocol with timeouts.

uvicorn limits neither the time for headers nor the time of a caller that does not read, and its limit on connections
refuses new ones while idle ones stay open.
"""

import asyncio
import json
import logging
import resource
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import structlog
from structlog.contextvars import bound_contextvars
from uvicorn.protocols.http.h11_impl import H11Protocol

from splitlearn_client.api import error_replies
from splitlearn_client.errors import BadRequest, RequestError, RequestTimeout, TooManyConnections
from splitlearn_client.request_info import REQUEST_ID, new_request_id, read_info
from splitlearn_client.serving.access import BROKEN

log = structlog.get_logger()

# files, pipes and sockets to trunks that the process opens besides connections
_OTHER_FILES = 128
_MOST_BY_DEFAULT = 4096
# the access log has these requests already
_logger = logging.getLogger("uvicorn.error.connections")
_logger.setLevel(logging.ERROR)

# Closing a connection while its peer sends resets it, and may lose the response. So up to this many refused connections
# discard what comes for a while.
_LINGERING = 64
_LINGER_SECONDS = 2.0

# bytes parsed before other connections get their turn
_TURN_BYTES = 2**14

Refused = Callable[[RequestError], None]


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits; times in seconds.

    Attributes:
        connections: how many may be open.
        header_timeout: from the first byte of a request to the end of its headers.
        send_timeout: without progress of a caller that should read.
        timeout_keep_alive: without a request.
    """

    connections: int
    header_timeout: float = 10.0
    send_timeout: float = 30.0
    timeout_keep_alive: float = 75.0


def most_connections() -> int:
    """The connections that the limit on open files allows; at most 4096."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return _MOST_BY_DEFAULT
    return max(2, min(_MOST_BY_DEFAULT, files - min(_OTHER_FILES, files // 2)))


class Connections:
    """All connections of one service. Used on the event loop's thread.

    Args:
        refused: called with errors that the application does not see.
    """

    def __init__(self, limits: ConnectionLimits, refused: Refused) -> None:
        self.limits = limits
        self.refused = refused
        self._all: set[Connection] = set()
        # connections without a complete request, longest idle first: since a response, or since the last part of a body
        self._idle: dict[Connection, None] = {}
        self._lingering: set[Connection] = set()
        self._n_closed = 0
        self._is_over = False
        seconds = (limits.header_timeout, limits.send_timeout, limits.timeout_keep_alive)
        self._look_every = min(1.0, min(seconds) / 4)

    def protocol(self, *args: Any, **kwargs: Any) -> "Connection":
        """Creates the protocol of a new connection, for uvicorn."""
        return Connection(self, *args, **kwargs)

    def opened(self, connection: "Connection") -> None:
        """Adds a connection; if there are too many, the one that was idle longest is closed.

        A connection whose body is awaited counts as idle.
        """
        if self._is_over:
            connection.drop()
            return
        self._all.add(connection)
        if len(self._all) > self.limits.connections:
            oldest = next(iter(self._idle), connection)
            error = TooManyConnections("too many connections; try again later", retry_after=1.0)
            if oldest.is_busy:
                oldest.break_off(error)
            elif oldest is connection or oldest.header_since is not None:
                oldest.refuse(error)
            else:
                oldest.close_idle()
                self._n_closed += 1
        if connection in self._all:
            self.idle(connection)

    def idle(self, connection: "Connection") -> None:
        self.busy(connection)
        self._idle[connection] = None

    def busy(self, connection: "Connection") -> None:
        self._idle.pop(connection, None)

    def closed(self, connection: "Connection") -> None:
        self._all.discard(connection)
        self.busy(connection)
        self._lingering.discard(connection)

    def linger(self, connection: "Connection") -> bool:
        """Whether a refused connection may discard what still comes; it no longer counts as a connection."""
        self.closed(connection)
        if len(self._lingering) >= _LINGERING:
            return False
        self._lingering.add(connection)
        return True

    async def watch(self) -> None:
        """Ends connections that take too long; runs until cancelled."""
        while True:
            await asyncio.sleep(self._look_every)
            if self._n_closed:
                log.warning("idle connections closed", count=self._n_closed, max_connections=self.limits.connections)
                self._n_closed = 0
            now = asyncio.get_running_loop().time()
            for connection in [*self._all, *self._lingering]:
                connection.look(now)

    def drop_busy(self) -> None:
        """Aborts the connections of all running requests."""
        for connection in list(self._all):
            if connection.is_busy:
                connection.drop()

    def drop_all(self) -> None:
        """Aborts all connections, now and later: a server whose run is cancelled does not stop accepting."""
        self._is_over = True
        for connection in [*self._all, *self._lingering]:
            connection.drop()


class Connection(H11Protocol):
    """One connection. It is idle, receives headers, or has a running request."""

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        self.header_since: float | None = None
        """When the first byte of a request with incomplete headers came."""
        self._others = connections
        self._idle_since = self.loop.time()
        self._stuck_since: float | None = None
        self._lingers_since: float | None = None
        # received and not yet parsed; reading is paused meanwhile
        self._unread = bytearray()
        self._has_turn = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._others.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers_since is not None:
            return
        if not self.is_busy and self.header_since is None:
            self.header_since = self.loop.time()
        self._unread += data
        if not self._has_turn:
            self._take_turn()

    def _take_turn(self) -> None:
        """Parses a part of what was received. A body in chunks of one byte takes a second per read otherwise."""
        self._has_turn = False
        if self.transport.is_closing() or self._lingers_since is not None:
            self._unread.clear()
            return
        part = bytes(self._unread[:_TURN_BYTES])
        del self._unread[:_TURN_BYTES]
        super().data_received(part)
        self._update()
        if self._unread and not self.transport.is_closing():
            self._has_turn = True
            self.transport.pause_reading()
            self.loop.call_soon(self._take_turn)
        elif not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        # may continue with a pipelined request
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        # h11's status is more precise, for example for headers that are too long
        status = int(getattr(sys.exception(), "error_status_hint", 400))
        # not h11's message, which quotes the request
        error = BadRequest("the headers are too long" if status == 431 else "this is not a request of HTTP/1.1")
        error.status, error.code = status, "invalid_http"
        if self.is_busy:
            self.break_off(error)
        else:
            self.refuse(error)

    def look(self, now: float) -> None:
        """Ends the connection if it takes too long."""
        limits = self._others.limits
        if self._lingers_since is not None:
            if now - self._lingers_since > _LINGER_SECONDS:
                self.drop()
            return
        if self.transport.is_closing():
            # the rest of a response gets as much time as any caller without progress
            self._stuck_since = self._stuck_since or now
        if self._stuck_since is not None and now - self._stuck_since > limits.send_timeout:
            self.drop()
        elif self.is_busy or self.transport.is_closing():
            return
        elif self.header_since is not None and now - self.header_since > limits.header_timeout:
            self.refuse(RequestTimeout(f"the headers did not arrive within {limits.header_timeout:g} s"))
        elif self.header_since is None and now - self._idle_since > limits.timeout_keep_alive:
            self.close_idle()

    def close_idle(self) -> None:
        """Closes an idle connection; nobody waits for a peer that does not read the rest of a response."""
        self._others.closed(self)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def break_off(self, error: RequestError) -> None:
        """Ends a request with an incomplete body; its application sees a disconnect."""
        self._others.busy(self)
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        if self.cycle.response_started:
            self.transport.close()
            return
        # the access log records the error with the request
        scope: MutableMapping[str, Any] = cast(Any, self.cycle.scope)
        scope[BROKEN] = error
        self._send_error(error, read_info(scope).context.request_id, scope["path"])

    def refuse(self, error: RequestError) -> None:
        """Sends an error on a connection without a running request, and closes it."""
        request_id = new_request_id()
        with bound_contextvars(request_id=request_id):
            self._others.refused(error)
        self._send_error(error, request_id)

    def _send_error(self, error: RequestError, request_id: str, path: str = "") -> None:
        lingers = self._others.linger(self)
        body = json.dumps(error_replies.body(error, path)).encode()
        retry = f"retry-after: {error.retry_after:.0f}\r\n" if error.retry_after else ""
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{retry}{REQUEST_ID.lower()}: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if lingers:
            self._lingers_since = self.loop.time()
            self.flow.resume_reading()
            # TLS has no end of one direction alone; the caller learns it from the header
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:
            self.close_idle()

    def drop(self) -> None:
        """Aborts the connection; a running request sees a disconnect."""
        self.transport.abort()

    @property
    def is_busy(self) -> bool:
        """Whether a request has no complete response yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _update(self) -> None:
        """Updates the state after a change: headers are complete, or the connection is idle."""
        if self.is_busy:
            self.header_since = None
            if self.cycle.more_body and not self.cycle.disconnected:
                self._others.idle(self)
            else:
                self._others.busy(self)
        elif self.conn.trailing_data[0] == b"":
            self.header_since = None
            self._others.idle(self)
