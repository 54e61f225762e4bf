"""Errors as OpenAI's error bodies; the one place where they become HTTP."""

import math
import re
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from client_service.errors import RequestError

log = structlog.get_logger()

# nginx's number for it; nobody receives it
CLIENT_CLOSED_REQUEST = 499
# how pydantic marks the alternatives of a field that may be text or a list
_ALTERNATIVE = re.compile(r"str|list\[.*\]")


def body(error: RequestError) -> dict[str, Any]:
    """The JSON that OpenAI's clients expect."""
    return _body(str(error), error.kind, error.code, error.param)


def unforeseen(error: Exception) -> dict[str, Any]:
    """Logs a fault of this service and gives the body that says no more than its kind."""
    log.error("request failed", error=type(error).__name__, exc_info=error)
    text = f"the service failed on this request ({type(error).__name__}); its log says more"
    return _body(text, "server_error", "internal_error")


def install(app: FastAPI) -> None:
    """Maps every error that a route can raise."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody_left)
    app.add_exception_handler(Exception, _unexpected)


def _body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def _request_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestError):
        raise error
    seconds = error.retry_after or (1.0 if error.status == 503 else None)
    headers = {"Retry-After": str(math.ceil(seconds))} if seconds is not None else None
    return JSONResponse(body(error), error.status, headers)


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        text = f"the body is not valid JSON: {reason} at character {first['loc'][-1]}"
        return JSONResponse(_body(text, "invalid_request_error", "invalid_json"), 400)
    param = _param(first)
    if param is None and first["type"] in ("missing", "model_attributes_type"):
        text = "the body is not a JSON object; send one, with the header Content-Type: application/json"
        return JSONResponse(_body(text, "invalid_request_error", "invalid_json"), 400)
    problems = " or ".join(dict.fromkeys(_plain(each) for each in error.errors() if _param(each) == param))
    text = f"{param}: {problems}" if param else problems
    return JSONResponse(_body(text, "invalid_request_error", "invalid_value", param), 400)


def _param(problem: Any) -> str | None:
    names = [str(part) for part in problem["loc"] if part != "body"]
    return ".".join(name for name in names if not _ALTERNATIVE.fullmatch(name)) or None


def _plain(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "this field is not supported here; leave it out"
    if problem["type"] == "missing":
        return "this field is required"
    return str(problem["msg"]).removeprefix("Value error, ")


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return JSONResponse(_body(str(error.detail), kind, "http_error"), error.status_code)


async def _nobody_left(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(unforeseen(error), 500)
