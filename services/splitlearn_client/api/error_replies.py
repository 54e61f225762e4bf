"""Maps errors to HTTP responses with the error bodies of their path; no other module does."""

import math
import re
from collections.abc import Callable, Sequence
from http import HTTPMethod
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from splitlearn_client.api.error_bodies import error_body
from splitlearn_client.api.json_body import NOWHERE
from splitlearn_client.errors import BadRequest, InvalidAPIKey, RequestError

log = structlog.get_logger()

INVALID_JSON: Final = "invalid_json"
"""The code of errors that say what is wrong with the body's text."""
# nginx's status for it, in logs and metrics only
CLIENT_CLOSED_REQUEST = 499
# the tag of a union's member, and pydantic's mark of a member's name, which are no part of a path; see schema.py
_ALTERNATIVE = re.compile(r"<.*>|\[key\]")
# an unknown field may have any length
_LONGEST_PARAM: Final = 200
# the usual cause is a base URL with /v1 twice, or without it
_NOTHING_THERE: Final = (
    "nothing is served at this path; /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages, "
    "/v1/embeddings and /v1/models are; clients of OpenAI's API that add the last part themselves need a base URL that "
    "ends in /v1, and those of Anthropic's one without it"
)


def body(error: RequestError, path: str = "") -> dict[str, Any]:
    """The JSON body that clients of this path expect."""
    return error_body(path, error.status, str(error), error.kind, error.code, error.param)


def headers(error: RequestError) -> dict[str, str]:
    """The headers that tell a caller what to do: when to try again, or how to authenticate."""
    if isinstance(error, InvalidAPIKey):
        return {"WWW-Authenticate": error.challenge}
    seconds = error.retry_after or (1.0 if error.status == 503 else None)
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


def unforeseen(error: Exception, path: str = "") -> dict[str, Any]:
    """Logs an unexpected error, and returns a body that names only its type."""
    log.error("request failed", error=type(error).__name__, exc_info=error)
    text = f"the service failed on this request ({type(error).__name__}); its log says more"
    return error_body(path, 500, text, "server_error", "internal_error")


def invalid(problems: Sequence[Any], rename: Callable[[str], str] = str) -> BadRequest:
    """What pydantic found in a body, as an error that names the field.

    Args:
        problems: pydantic's, their paths behind one element that says where the body is.
        rename: gives a field's path the name that the caller knows.
    """
    first = problems[0]
    if first["type"] == "json_invalid":
        text = f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}"
        position = first["loc"][-1]
        if position != NOWHERE:
            text += f" at character {position}"
        return _not_json(text)
    param = _param(first)
    if param is None and first["type"] in ("missing", "model_attributes_type"):
        return _not_json("the body is not a JSON object; send one, with the header Content-Type: application/json")
    text = " or ".join(dict.fromkeys(_plain(each) for each in problems if _param(each) == param))
    if param is None:
        return BadRequest(text)
    named = rename(param)
    return BadRequest(f"{named}: {text}", named)


def install(app: FastAPI) -> None:
    """Installs the handlers of all errors that a route can raise. Middleware added later wraps them."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_disconnected)
    app.add_middleware(_Unforeseen)


class _Unforeseen:
    """Answers unexpected errors. One that reached uvicorn would be logged there again, and would close a connection
    that a proxy may share among callers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if begun:
                # a part of the response is sent: only closing the connection can signal the error
                raise
            await JSONResponse(unforeseen(error, scope["path"]), 500)(scope, receive, send)


def _not_json(text: str) -> BadRequest:
    error = BadRequest(text)
    error.code = INVALID_JSON
    return error


async def _request_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestError):
        raise error
    return JSONResponse(body(error, request.scope["path"]), error.status, headers(error))


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return await _request_error(request, invalid(error.errors()))


def _param(problem: Any) -> str | None:
    """The field's path, for example messages.0.content."""
    # the first element says that it is in the body
    names = [str(part) for part in problem["loc"][1:]]
    if problem["type"] == "extra_forbidden":
        # the caller chose the last name; it may look like a tag, or be empty
        *names, last = names
        names.append(ascii(last) if not last or _ALTERNATIVE.fullmatch(last) else last)
    path = ".".join(name for name in names if not _ALTERNATIVE.fullmatch(name))
    return path[:_LONGEST_PARAM] or None


def _plain(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "this field is not supported here; leave it out"
    if problem["type"] == "missing":
        return "this field is required"
    if problem["type"] in ("model_type", "model_attributes_type"):
        # pydantic's message names Python types
        return "expected an object"
    return str(problem["msg"]).removeprefix("Value error, ")


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    text = _NOTHING_THERE if error.status_code == 404 else str(error.detail)
    found = error_body(request.scope["path"], error.status_code, text, kind, "http_error")
    headers = {"Allow": _methods_here(request)} if error.status_code == 405 else error.headers
    return JSONResponse(found, error.status_code, headers)


def _methods_here(request: Request) -> str:
    """The methods that are served at a path, for the header Allow: those of all its routes."""
    routes = request.app.router.routes

    def is_served(method: HTTPMethod) -> bool:
        return any(route.matches({**request.scope, "method": method.value})[0] is Match.FULL for route in routes)

    return ", ".join(method.value for method in HTTPMethod if is_served(method))


async def _client_disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
