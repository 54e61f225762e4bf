"""One line and one count for each request: what was asked, and how it ended. Never what was said."""

import json
import time
from collections.abc import Callable, Sequence

import structlog
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client_service.errors import RequestError

log = structlog.get_logger()

# asked every few seconds by machines; not worth a line as long as they get an answer
_PROBES = frozenset({"/health", "/ready", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"
# nginx's number for a caller who hung up
_HUNG_UP = 499
_LONGEST = 200
# where a scope holds the refusal of a request whose body turned out to be no HTTP: its application sees a caller go
BROKEN = "client_service.broken"

Count = Callable[[str, str, int], None]


class Access:
    """ASGI middleware, around everything else.

    Args:
        routes: what may be asked for; a path that none of them takes counts as "other".
        count: is told path, method and status.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], count: Count) -> None:
        self._app = app
        self._routes = routes
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        seen = _Seen(receive, send)
        try:
            await self._app(scope, seen.receive, seen.send)
        finally:
            self._tell(scope, seen, time.perf_counter() - began)

    def unseen(self, error: RequestError) -> None:
        """Counts and logs a refusal that came before there was a request."""
        self._count(_OTHER, _OTHER, error.status)
        log.info("request refused", status=error.status, **_why(error))

    def _tell(self, scope: Scope, seen: "_Seen", seconds: float) -> None:
        broken: RequestError | None = scope.get(BROKEN)
        path, method = self._template(scope), _method(scope)
        status = seen.status if broken is None else broken.status
        self._count(path, method, status)
        if path in _PROBES and status in (200, 503):
            return
        raw = _short(scope["raw_path"].decode("ascii", "backslashreplace"))
        line = {"method": method, "path": raw, "status": status, "seconds": round(seconds, 4)}
        if status < 400:
            log.info("request", **line)
        else:
            log.info("request refused", **line, **(seen.why() if broken is None else _why(broken)))

    def _template(self, scope: Scope) -> str:
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path", _OTHER))
        return _OTHER


class _Seen:
    """One exchange as it passes."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._status = 500
        self._begun = False
        self._whole = False
        self._gone = False
        self._body = b""

    @property
    def status(self) -> int:
        """What was answered; 499 where the caller hung up before the answer was whole."""
        return _HUNG_UP if self._gone and not self._whole else self._status

    def why(self) -> dict[str, str]:
        """Code and reason of a refusal. A message about a field may quote it, and says no more than its name."""
        if self.status == _HUNG_UP:
            return {"code": "hung_up"}
        try:
            error = json.loads(self._body)["error"]
        except (ValueError, LookupError, TypeError):
            return {}
        about = {"param": error["param"]} if error.get("param") else {"reason": error["message"]}
        return {"code": str(error["code"])} | {name: _short(str(text)) for name, text in about.items()}

    async def receive(self) -> Message:
        message = await self._receive()
        # uvicorn says so after a whole response as well
        if message["type"] == "http.disconnect" and not self._whole:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            if self._status >= 400 and not self._body:
                self._body = bytes(message.get("body", b""))
            if not self._gone:
                self._whole = not message.get("more_body", False)
        await self._send(message)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else _OTHER


def _why(error: RequestError) -> dict[str, str]:
    return {"code": error.code, "reason": _short(str(error))}


def _short(text: str) -> str:
    """One line of a bounded length, whatever the text holds."""
    return text[:_LONGEST].encode("unicode_escape").decode("ascii")
