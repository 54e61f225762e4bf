"""A hub on loopback, as `huggingface_hub` and our range requests see the true one, with faults by script.

Small files are served by the hub itself. Weight files are large files to it: it redirects to a second server, at
another address, which stores them by their sha256 and must never see the token.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_REVISION = re.compile(r"/api/models/([^/]+/[^/]+)/revision/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(frozen=True)
class Asked:
    """A request. `bytes` are those of the file that it asks for; None asks for all of it."""

    server: str
    method: str
    path: str
    file: str
    bytes: tuple[int, int] | None
    authorization: str | None


@dataclass(frozen=True)
class Fault:
    """What is wrong with an answer.

    Attributes:
        status: in place of the right one, without the file's bytes.
        headers: in place of, or beside, the right ones; one that is None is left out.
        cut_after: bytes of the body after which the line is cut.
        announced: whether the length is announced; without it, a body ends with the connection.
        extra: bytes behind the right ones.
        replaced: bytes in place of the right ones.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    cut_after: int | None = None
    announced: bool = True
    extra: bytes = b""
    replaced: bytes | None = None


@dataclass
class Repo:
    """A model: its files by revision. `token` is what its files are given for; None gives them to all."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    is_hidden: bool = False


class LoopbackHub:
    """Both servers. `script` may spoil the answer to a request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[Asked] = []
        self.sent: list[tuple[str, int, int]] = []
        """File, first byte and one after the last, of everything that was sent of weight files."""
        self.sent_beside = 0
        """Bytes of the bodies of everything else."""
        self.script: Callable[[Asked], Fault | None] = lambda asked: None
        self._writing = threading.Lock()
        self._servers = [self._serve("hub"), self._serve("storage")]

    @property
    def url(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    def add(self, repo: str, folder: Path, *, revision: str = "main", token: str | None = None) -> str:
        """Serves the files of a folder as a new commit of a model, and returns the commit."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return self.add_files(
            repo,
            {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths},
            revision=revision,
            token=token,
        )

    def add_files(
        self, repo: str, files: Mapping[str, bytes], *, revision: str = "main", token: str | None = None
    ) -> str:
        """As `add`."""
        digest = hashlib.sha1(json.dumps({name: _sha256(data) for name, data in files.items()}).encode()).hexdigest()
        served = self.repos.setdefault(repo, Repo())
        served.commits[digest] = dict(files)
        served.revisions[revision] = digest
        served.token = token
        return digest

    def tensor_bytes(self) -> dict[str, set[int]]:
        """By weight file: every byte of it that was sent, behind the header."""
        found: dict[str, set[int]] = {}
        for file, start, end in self.sent:
            found.setdefault(file, set()).update(range(max(start, self._header_end(file)), end))
        return {file: sent for file, sent in found.items() if sent}

    def count_tensor_bytes(self) -> int:
        """How many bytes of tensors were sent, each as often as it was."""
        return sum(max(0, end - max(start, self._header_end(file))) for file, start, end in self.sent)

    def count_beside(self) -> int:
        """How many other bytes were sent, headers of weight files among them."""
        everything = sum(end - start for _, start, end in self.sent)
        return self.sent_beside + everything - self.count_tensor_bytes()

    def forget(self) -> None:
        """Counts from here on."""
        self.asked.clear()
        self.sent.clear()
        self.sent_beside = 0

    def close(self) -> None:
        """Ends both servers."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _header_end(self, name: str) -> int:
        every = (files for repo in self.repos.values() for files in repo.commits.values())
        data = next(files[name] for files in every if name in files)
        return 8 + int.from_bytes(data[:8], "little")

    def _serve(self, kind: str) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(kind, self)

            def do_HEAD(self) -> None:
                hub._answer(kind, self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Clients that leave in the middle are what some tests are about."""

        server = Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    def _answer(self, kind: str, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        asked_range = _RANGE.fullmatch(handler.headers.get("Range", ""))
        span = (int(asked_range[1]), int(asked_range[2]) + 1) if asked_range else None
        file = path.rpartition("/")[2]
        asked = Asked(kind, handler.command, path, file, span, handler.headers.get("Authorization"))
        with self._writing:
            self.asked.append(asked)
        fault = self.script(asked) or Fault()
        if fault.status is not None:
            return _send(handler, fault.status, _merged({"Content-Length": "0"}, fault.headers), b"")
        if kind == "storage":
            digest, _, name = path.removeprefix("/").partition("/")
            return self._send_file(handler, asked, fault, name, self._blob(digest), {"ETag": f'"{digest[:32]}"'})
        return self._answer_as_hub(handler, asked, fault)

    def _answer_as_hub(self, handler: BaseHTTPRequestHandler, asked: Asked, fault: Fault) -> None:
        if match := _REVISION.fullmatch(asked.path):
            return self._list(handler, match[1], match[2], fault)
        match = _RESOLVE.fullmatch(asked.path)
        repo = self.repos.get(match[1]) if match else None
        if match is None or repo is None or repo.is_hidden:
            return _refuse(handler, 401, "RepoNotFound")
        if repo.token is not None and asked.authorization != f"Bearer {repo.token}":
            return _refuse(handler, 403 if asked.authorization else 401, "GatedRepo")
        commit = repo.revisions.get(match[2], match[2])
        data = repo.commits.get(commit, {}).get(match[3])
        if data is None:
            return _refuse(handler, 404, "EntryNotFound")
        if not match[3].endswith(".safetensors"):
            head = {"X-Repo-Commit": commit, "ETag": f'"{_blob_id(data)}"'}
            return self._send_file(handler, asked, fault, match[3], data, head)
        place = f"http://127.0.0.1:{self._servers[1].server_port}/{_sha256(data)}/{match[3]}"
        head = {
            "X-Repo-Commit": commit,
            "X-Linked-ETag": f'"{_sha256(data)}"',
            "X-Linked-Size": str(len(data)),
            "Location": place,
            "Content-Length": "0",
        }
        return _send(handler, 302, _merged(head, fault.headers), b"")

    def _list(self, handler: BaseHTTPRequestHandler, name: str, revision: str, fault: Fault) -> None:
        repo = self.repos.get(name)
        if repo is None or repo.is_hidden:
            return _refuse(handler, 401, "RepoNotFound")
        commit = repo.revisions.get(revision, revision)
        if commit not in repo.commits:
            return _refuse(handler, 404, "RevisionNotFound")
        files = [_listed(file, data) for file, data in repo.commits[commit].items()]
        body = json.dumps({"id": name, "sha": commit, "siblings": files}).encode()
        body = body if fault.replaced is None else fault.replaced
        with self._writing:
            self.sent_beside += len(body)
        head = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        return _send(handler, 200, _merged(head, fault.headers), body)

    def _blob(self, digest: str) -> bytes:
        every = (data for repo in self.repos.values() for files in repo.commits.values() for data in files.values())
        return next(data for data in every if _sha256(data) == digest)

    def _send_file(
        self,
        handler: BaseHTTPRequestHandler,
        asked: Asked,
        fault: Fault,
        name: str,
        data: bytes,
        head: dict[str, str],
    ) -> None:
        start, end = asked.bytes or (0, len(data))
        body = data[start:end] if fault.replaced is None else fault.replaced
        head = {**head, "Content-Length": str(len(body))}
        if asked.bytes is not None:
            head["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        if not fault.announced:
            del head["Content-Length"]
            head["Connection"] = "close"
        body = (body + fault.extra)[: fault.cut_after]
        # counted before it is sent: whoever has received it may look at once
        with self._writing:
            if name.endswith(".safetensors"):
                self.sent.append((name, start, start + len(body)))
            elif handler.command == "GET":
                self.sent_beside += len(body)
        _send(handler, 200 if asked.bytes is None else 206, _merged(head, fault.headers), body)
        if fault.cut_after is not None or not fault.announced:
            handler.close_connection = True


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A hub for as long as the context lasts."""
    hub = LoopbackHub()
    try:
        yield hub
    finally:
        hub.close()


def _send(handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], body: bytes) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        try:
            handler.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True


def _refuse(handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
    _send(handler, status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"}, b"")


def _merged(right: Mapping[str, str], wrong: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**right, **wrong}.items() if value is not None}


def _listed(name: str, data: bytes) -> dict[str, Any]:
    listed: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _blob_id(data)}
    if name.endswith(".safetensors"):
        listed["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
    return listed


@lru_cache(maxsize=64)
def _sha256(data: bytes) -> str:
    # a bytes object keeps its hash, and is compared with itself in no time
    return hashlib.sha256(data).hexdigest()


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
