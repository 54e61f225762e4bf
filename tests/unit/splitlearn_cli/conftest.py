"""Runs the command in this process and in a clean environment, and puts back what it changes."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import structlog

from splitlearn_cli.__main__ import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("SPLITLEARN_")]:
        monkeypatch.delenv(name)
    for name in ("GOMP_SPINCOUNT", "TRANSFORMERS_VERBOSITY"):
        # told before the command sets them, monkeypatch takes them back after the test
        monkeypatch.setenv(name, os.environ.get(name, "unset"))
        if os.environ[name] == "unset":
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def splitlearn(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*argv: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@dataclass
class ChatService:
    """A client service's HTTP side, with a canned answer; remembers what it was asked."""

    chunks: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: dict[str, Any] = field(default_factory=dict)
    done: bool = True
    content_type: str = "text/event-stream"
    busy: int = 0
    """How many times /ready is answered with 503."""
    passes: bool | None = None
    """What /ready then says of whether that passes."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    authorization: set[str | None] = field(default_factory=set)
    """What came with requests for models and answers."""
    url: str = ""


@contextmanager
def serving(service: ChatService) -> Iterator[ChatService]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/ready":
                service.busy -= 1
                ready = service.busy < 0
                body: dict[str, Any] = (
                    {"status": "ready"} if ready else {"status": "not ready", "reason": "no trunk answers"}
                )
                if not ready and service.passes is not None:
                    body["passes"] = service.passes
                self._reply(200 if ready else 503, json.dumps(body).encode())
                return
            service.authorization.add(self.headers["Authorization"])
            self._reply(200, json.dumps({"data": [{"id": "tiny"}]}).encode())

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            service.authorization.add(self.headers["Authorization"])
            service.asked.append((self.path, json.loads(asked)))
            if service.status != 200:
                self._reply(service.status, json.dumps(service.body).encode())
                return
            events = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in service.chunks]
            stream = "".join([*events, *(["data: [DONE]\n\n"] if service.done else [])])
            self._reply(200, stream.encode(), service.content_type)

        def _reply(self, status: int, body: bytes, content_type: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # a short poll, because shutdown waits for it
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        service.url = f"http://127.0.0.1:{server.server_port}"
        yield service
        server.shutdown()
        thread.join()


@pytest.fixture
def chat_service() -> Iterator[ChatService]:
    with serving(ChatService()) as service:
        yield service
