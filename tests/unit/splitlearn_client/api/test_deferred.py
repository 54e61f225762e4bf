import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from splitlearn_client.api.deferred import DeferredResponse
from splitlearn_client.request_info import read_info

RELEASED = "released"
ANSWERED = "answered"


class Unlucky(Exception):
    pass


def asked(path: str) -> tuple[Response, list[str]]:
    """The response, and what happened in which order."""
    events: list[str] = []
    app = FastAPI()

    async def late(_receive: Receive) -> Response:
        events.append(ANSWERED)
        return PlainTextResponse("late", 201)

    async def fails(_receive: Receive) -> Response:
        raise Unlucky

    @app.exception_handler(Unlucky)
    async def unlucky(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"error": "unlucky"}, 418)

    @app.get("/late")
    async def get_late() -> Response:
        return DeferredResponse(late)

    @app.get("/fails")
    async def get_fails() -> Response:
        return DeferredResponse(fails)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            read_info(scope).release_body = lambda: events.append(RELEASED)
        await app(scope, receive, send)

    return TestClient(outer).get(path), events


def test_the_body_is_released_before_the_response_is_made() -> None:
    response, events = asked("/late")
    assert (response.status_code, response.text) == (201, "late")
    assert events == [RELEASED, ANSWERED]


def test_an_error_of_making_it_is_handled_as_one_of_the_endpoint() -> None:
    response, events = asked("/fails")
    assert (response.status_code, response.json()) == (418, {"error": "unlucky"})
    assert events == [RELEASED]


def test_nothing_is_made_before_it_is_sent() -> None:
    async def never(_receive: Receive) -> Response:
        pytest.fail("nobody has asked")

    DeferredResponse(never)
