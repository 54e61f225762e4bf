"""How many connections there are, and how long each may take: uvicorn's protocol with a watch over it.

uvicorn limits neither the time in which headers come nor that in which a reader reads, and at its only limit of
connections it refuses newcomers for the sake of those that do nothing.
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
from uvicorn.protocols.http.h11_impl import H11Protocol

from client_service.api import error_replies
from client_service.errors import BadRequest, RequestError, RequestTimeout, TooManyConnections
from client_service.serving.access import BROKEN

log = structlog.get_logger()

# files, pipes, sockets to trunks: what the process opens besides connections
_OTHER_FILES = 128
_MOST_BY_DEFAULT = 4096
# uvicorn's lines about broken requests would come beside those of the access log
_logger = logging.getLogger("uvicorn.error.connections")
_logger.setLevel(logging.ERROR)

# A connection that is closed while its peer still sends is reset, which can take the refusal along. So some go on
# reading, for so many seconds, what they throw away.
_LINGERING = 64
_LINGER_SECONDS = 2.0

# parsed before others have their turn
_TURN_BYTES = 2**14

Refused = Callable[[RequestError], None]


@dataclass(frozen=True)
class ConnectionLimits:
    """Seconds, and the greatest number of connections.

    Attributes:
        header_timeout: from the first byte of a request to the end of its headers.
        send_timeout: without any progress of a reader.
        timeout_keep_alive: without a request.
    """

    connections: int
    header_timeout: float = 10.0
    send_timeout: float = 30.0
    timeout_keep_alive: float = 75.0


def most_connections() -> int:
    """What the limit of open files leaves for connections; at most 4096."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return _MOST_BY_DEFAULT
    return max(2, min(_MOST_BY_DEFAULT, files - min(_OTHER_FILES, files // 2)))


class Connections:
    """All connections of one service. Lives on the event loop's thread.

    Args:
        refused: is told of refusals that no application sees.
    """

    def __init__(self, limits: ConnectionLimits, refused: Refused) -> None:
        self.limits = limits
        self.refused = refused
        self._all: set[Connection] = set()
        # those without a whole request, first the one of which nothing has come for longest: answer or piece of a body
        self._idle: dict[Connection, None] = {}
        self._lingering: set[Connection] = set()
        self._made_room = 0
        seconds = (limits.header_timeout, limits.send_timeout, limits.timeout_keep_alive)
        self._look_every = min(1.0, min(seconds) / 4)

    def protocol(self, *args: Any, **kwargs: Any) -> "Connection":
        """What uvicorn makes of each new connection."""
        return Connection(self, *args, **kwargs)

    def entered(self, connection: "Connection") -> None:
        """Counts a new one; where there are too many, the one that has been idle longest makes room.

        Whoever keeps its body back is idle too, and goes before those who have just had an answer.
        """
        self._all.add(connection)
        if len(self._all) > self.limits.connections:
            oldest = next(iter(self._idle), connection)
            error = TooManyConnections("too many connections; try again later", retry_after=1.0)
            if oldest.is_busy:
                oldest.break_off(error)
            elif oldest is connection or oldest.header_since is not None:
                oldest.refuse(error)
            else:
                oldest.give_up()
                self._made_room += 1
        if connection in self._all:
            self.idle(connection)

    def idle(self, connection: "Connection") -> None:
        self.busy(connection)
        self._idle[connection] = None

    def busy(self, connection: "Connection") -> None:
        self._idle.pop(connection, None)

    def left(self, connection: "Connection") -> None:
        self._all.discard(connection)
        self.busy(connection)
        self._lingering.discard(connection)

    def linger(self, connection: "Connection") -> bool:
        """Whether one that was refused may still read; it no longer counts as a connection."""
        self.left(connection)
        if len(self._lingering) >= _LINGERING:
            return False
        self._lingering.add(connection)
        return True

    async def watch(self) -> None:
        """Ends connections that take too long; runs until cancelled."""
        while True:
            await asyncio.sleep(self._look_every)
            if self._made_room:
                log.warning("idle connections closed to make room", count=self._made_room, most=self.limits.connections)
                self._made_room = 0
            now = asyncio.get_running_loop().time()
            for connection in [*self._all, *self._lingering]:
                connection.look(now)

    def drop_busy(self) -> None:
        """Breaks off whatever is under way."""
        for connection in list(self._all):
            if connection.is_busy:
                connection.drop()


class Connection(H11Protocol):
    """One connection, which is idle, receives headers, or has a request under way."""

    def __init__(self, connections: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        self.header_since: float | None = None
        """When the first byte of a request came whose headers are not complete."""
        self._others = connections
        self._idle_since = self.loop.time()
        self._stuck_since: float | None = None
        self._lingers_since: float | None = None
        # read, and not yet parsed; nothing more is read meanwhile
        self._unread = bytearray()
        self._has_turn = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._others.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.left(self)
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
        """Parses some of what was read. A body in chunks of a byte takes a second for what is read at once."""
        self._has_turn = False
        if self.transport.is_closing() or self._lingers_since is not None:
            self._unread.clear()
            return
        piece = bytes(self._unread[:_TURN_BYTES])
        del self._unread[:_TURN_BYTES]
        super().data_received(piece)
        self._settle()
        if self._unread and not self.transport.is_closing():
            self._has_turn = True
            self.transport.pause_reading()
            self.loop.call_soon(self._take_turn)
        elif not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        # may go on with a request that came early
        super().on_response_complete()
        self._settle()

    def pause_writing(self) -> None:
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        # h11 knows better what is wrong, for instance that the headers are too long
        status = int(getattr(sys.exception(), "error_status_hint", 400))
        # not what h11 says of it, which quotes what came
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
            # what is still to be sent gets as long as any reader's progress
            self._stuck_since = self._stuck_since or now
        if self._stuck_since is not None and now - self._stuck_since > limits.send_timeout:
            self.drop()
        elif self.is_busy or self.transport.is_closing():
            return
        elif self.header_since is not None and now - self.header_since > limits.header_timeout:
            self.refuse(RequestTimeout(f"the headers did not come within {limits.header_timeout:g} s"))
        elif self.header_since is None and now - self._idle_since > limits.timeout_keep_alive:
            self.give_up()

    def give_up(self) -> None:
        """Closes a connection that nobody uses."""
        self._others.left(self)
        self.transport.close()

    def break_off(self, error: RequestError) -> None:
        """Ends a request whose body is not whole: whoever reads it finds nobody at the other end."""
        self._others.busy(self)
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        if self.cycle.response_started:
            self.transport.close()
            return
        # the request that it is the body of has its line in the log
        scope: MutableMapping[str, Any] = cast(Any, self.cycle.scope)
        scope[BROKEN] = error
        self._say(error)

    def refuse(self, error: RequestError) -> None:
        """Says what is wrong where no response is under way, and closes."""
        self._others.refused(error)
        self._say(error)

    def _say(self, error: RequestError) -> None:
        lingers = self._others.linger(self)
        body = json.dumps(error_replies.body(error)).encode()
        retry = f"retry-after: {error.retry_after:.0f}\r\n" if error.retry_after else ""
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if lingers:
            self._lingers_since = self.loop.time()
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.give_up()

    def drop(self) -> None:
        """Breaks the connection off; whoever works for it is told that nobody is left."""
        self.transport.abort()

    @property
    def is_busy(self) -> bool:
        """Whether a request has begun whose answer is not whole."""
        return self.cycle is not None and not self.cycle.response_complete

    def _settle(self) -> None:
        """After a change: the headers are through, or the connection is idle again."""
        if self.is_busy:
            self.header_since = None
            if self.cycle.more_body and not self.cycle.disconnected:
                self._others.idle(self)
            else:
                self._others.busy(self)
        elif self.conn.trailing_data[0] == b"":
            self.header_since = None
            self._others.idle(self)
