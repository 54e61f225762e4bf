"""The access log: one line and one count per request, never with prompts or answers."""

import json
import time
from collections.abc import Callable, Sequence

import structlog
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from splitlearn_client.api.error_replies import INVALID_JSON
from splitlearn_client.api.field_names import FIELD_NAMES
from splitlearn_client.errors import RequestError
from splitlearn_client.request_info import REQUEST_ID, RequestInfo, read_info

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
        info = read_info(scope)
        seen = _Exchange(receive, send, info.context.request_id)
        # all log lines of this request have it, whoever writes them
        with bound_contextvars(request_id=info.context.request_id):
            try:
                await self._app(scope, seen.receive, seen.send)
            finally:
                self._record(scope, seen, info)

    def refused_early(self, error: RequestError) -> None:
        """Counts and logs an error that occurred before a request was parsed."""
        self._count(_OTHER, _OTHER, error.status)
        self._count_refusal(error.code, "")
        log.info("request refused", status=error.status, **_why(error))

    def _record(self, scope: Scope, seen: "_Exchange", info: RequestInfo) -> None:
        broken: RequestError | None = scope.get(BROKEN)
        path, method = self._template(scope), _method(scope)
        status = seen.status if broken is None else broken.status
        self._count(path, method, status)
        if path in _PROBES and status in (200, 503):
            return
        raw = _short(scope["raw_path"].decode("ascii", "backslashreplace"))
        line = {"method": method, "path": raw, "status": status}
        line |= {"seconds": round(time.perf_counter() - info.began, 4)}
        if info.tenant:
            line["tenant"] = info.tenant
        if status < 400:
            log.info("request", **line)
            return
        why = seen.why() if broken is None else _why(broken)
        if status != _HUNG_UP and "code" in why:
            self._count_refusal(why["code"], info.tenant)
        log.info("request refused", **line, **why)

    def _template(self, scope: Scope) -> str:
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path", _OTHER))
        return _OTHER


class _Exchange:
    """Observes one request and its response, which gets the request's id."""

    def __init__(self, receive: Receive, send: Send, request_id: str) -> None:
        self._id_header = (REQUEST_ID.lower().encode(), request_id.encode())
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
        """Code and reason of an error. One about the body may quote it, so only the field's known names are given."""
        if self.status == _HUNG_UP:
            return {"code": "hung_up"}
        try:
            error = json.loads(self._body)["error"]
        except (ValueError, LookupError, TypeError):
            return {}
        code = str(error["code"])
        if error.get("param"):
            return {"code": code, "param": _known(str(error["param"]))}
        return {"code": code} if code == INVALID_JSON else {"code": code, "reason": _short(str(error["message"]))}

    async def receive(self) -> Message:
        message = await self._receive()
        # uvicorn sends this after a complete response too
        if message["type"] == "http.disconnect" and not self._whole:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), self._id_header]}
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


def _known(path: str) -> str:
    """The path of a field with the names of the API alone: the caller chose all other names, and indices too, because a
    name may look like one."""
    return ".".join(part if part in FIELD_NAMES else "*" for part in path[:_LONGEST].split("."))


def _short(text: str) -> str:
    """The text as one line of bounded length."""
    return text[:_LONGEST].encode("unicode_escape").decode("ascii")
