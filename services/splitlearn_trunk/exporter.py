"""Serves /metrics over HTTP, on threads of its own.

The number of connections is limited, and a new one replaces the oldest, so that a slow caller blocks nobody.
"""

import errno
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, ClassVar, Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = structlog.get_logger()

PATH: Final = "/metrics"
MAX_CONNECTIONS: Final = 16
_REQUEST_SECONDS: Final = 5.0
# Seconds between two checks for the shutdown.
_POLL_SECONDS: Final = 0.1
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)


@contextmanager
def exported(registry: CollectorRegistry, listening: socket.socket) -> Iterator[None]:
    """Serves on a bound socket until the context ends, and closes it."""
    exporter = _Exporter(registry, listening)
    thread = threading.Thread(target=exporter.serve_forever, args=(_POLL_SECONDS,), name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        exporter.shutdown()
        exporter.server_close()
        thread.join()


class _Exporter(ThreadingMixIn, TCPServer):
    """Accepts on one thread, and starts one thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, registry: CollectorRegistry, listening: socket.socket) -> None:
        self.registry = registry
        self._lock = threading.Lock()
        # oldest first
        self._connections: dict[socket.socket, None] = {}
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        # connections inherit it, so that closing ones do not block the port for the next trunk
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.server_activate()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                # the connection stays in the backlog, and would be accepted again at once
                time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections[request] = None
            if len(self._connections) > MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                # its thread then fails to read or to write, and ends
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("serving metrics failed", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    """One request, then the connection ends (HTTP/1.0)."""

    server: _Exporter
    timeout: ClassVar[float] = _REQUEST_SECONDS
    server_version = "splitlearn"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(message)s\n"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _refuse(self) -> None:
        message = b"only GET and HEAD are allowed\n"
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", message, {"Allow": "GET, HEAD"})
        self.wfile.write(message)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def log_message(self, *_words: Any) -> None:
        """Logs nothing: Prometheus scrapes all the time."""

    def _answer(self, *, with_body: bool) -> None:
        if self.path.partition("?")[0] != PATH:
            kind, status, body = "text/plain; charset=utf-8", HTTPStatus.NOT_FOUND, b"only /metrics is served here\n"
        else:
            encode, kind = choose_encoder(self.headers.get("Accept") or "")
            status, body = HTTPStatus.OK, encode(self.server.registry)
        self._send(status, kind, body, {})
        if with_body:
            self.wfile.write(body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
