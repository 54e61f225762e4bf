"""The access log: one line and one count per request, never with prompts or answers."""

import json
import time
from collections.abc import Callable, Sequence

import structlog
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from splitlearn_client.errors import RequestError
from splitlearn_client.quotas import tenant_of

log = structlog.get_logger()

# monitoring polls these; they are logged only if they fail
_PROBES = frozenset({"/health", "/ready", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"
# nginx's status for a caller who hung up
_HUNG_UP = 499
_LONGEST = 200
# key in a scope: the error of a request whose body is not HTTP; the application sees only a disconnect
BROKEN = "splitlearn_client.broken"

Count = Callable[[str, str, int], None]
CountRefusal = Callable[[str, str], None]


class Access:
    """The outermost ASGI middleware.

    Args:
        routes: those of the application; a path without a route counts as "other".
        count: called with path, method and status.
        count_refusal: called with the code of a refusal and the tenant's name.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], count: Count, count_refusal: CountRefusal) -> None:
        self._app = app
        self._routes = routes
        self._count = count
        self._count_refusal = count_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        seen = _Exchange(receive, send)
        try:
            await self._app(scope, seen.receive, seen.send)
        finally:
            self._record(scope, seen, time.perf_counter() - began)

    def refused_early(self, error: RequestError) -> None:
        """Counts and logs an error that occurred before a request was parsed."""
        self._count(_OTHER, _OTHER, error.status)
        self._count_refusal(error.code, "")
        log.info("request refused", status=error.status, **_why(error))

    def _record(self, scope: Scope, seen: "_Exchange", seconds: float) -> None:
        broken: RequestError | None = scope.get(BROKEN)
        path, method = self._template(scope), _method(scope)
        status = seen.status if broken is None else broken.status
        self._count(path, method, status)
        if path in _PROBES and status in (200, 503):
            return
        raw = _short(scope["raw_path"].decode("ascii", "backslashreplace"))
        tenant = tenant_of(scope)
        line = {"method": method, "path": raw, "status": status, "seconds": round(seconds, 4)}
        if tenant:
            line["tenant"] = tenant
        if status < 400:
            log.info("request", **line)
            return
        why = seen.why() if broken is None else _why(broken)
        if status != _HUNG_UP and "code" in why:
            self._count_refusal(why["code"], tenant)
        log.info("request refused", **line, **why)

    def _template(self, scope: Scope) -> str:
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path", _OTHER))
        return _OTHER


class _Exchange:
    """Observes one request and its response."""

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
        """The response's status; 499 if the caller hung up before the response was complete."""
        return _HUNG_UP if self._gone and not self._whole else self._status

    def why(self) -> dict[str, str]:
        """Code and reason of an error. An error about a field may quote it, so only the field's name is given."""
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
        # uvicorn sends this after a complete response too
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
    """The text as one line of bounded length."""
    return text[:_LONGEST].encode("unicode_escape").decode("ascii")
