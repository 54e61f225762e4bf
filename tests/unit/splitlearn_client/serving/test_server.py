"""The end of the HTTP server that `stop` does not bring about; tests/integration/test_shutdown.py has the other one."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.serving.server import HTTPServer
from splitlearn_client.serving.tenant_directory import TenantDirectory
from splitlearn_client.settings import ClientSettings


async def said(request: Request) -> PlainTextResponse:
    return PlainTextResponse("here")


async def answer(url: str) -> str:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        return (await http.get(url)).text


async def test_a_server_whose_run_is_cancelled_answers_nobody_that_comes_later() -> None:
    app = Starlette(routes=[Route("/health", said)])
    settings = ClientSettings(weights=Path(), trunk="127.0.0.1:1")
    server = HTTPServer(app, app.routes, settings, ClientMetrics("tiny"), TenantDirectory.of(settings))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/health"
        running = asyncio.create_task(server.run([listening]))
        # the socket listens already: this waits until the server accepts
        assert await answer(url) == "here"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(httpx.TransportError):
            await answer(url)
        asyncio.get_running_loop().remove_reader(listening)
