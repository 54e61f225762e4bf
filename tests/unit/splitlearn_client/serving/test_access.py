"""What the access log has of a request that is refused, through the real request models and error replies."""

import json
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from structlog.testing import capture_logs

from splitlearn_client.api import error_replies
from splitlearn_client.api.json_body import ApiRoute
from splitlearn_client.api.schema import ChatFields, CompletionFields
from splitlearn_client.serving.access import Access

SECRET = "my diagnosis"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


async def refused(path: str, body: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The error that the caller gets, and the line in the log."""
    app = FastAPI()
    routes = APIRouter(route_class=ApiRoute)

    @routes.post("/chat")
    async def chat(fields: ChatFields) -> str:
        return fields.model

    @routes.post("/completion")
    async def completion(fields: CompletionFields) -> str:
        return fields.model

    app.include_router(routes)
    error_replies.install(app)
    logged = Access(app, app.routes, lambda *_: None, lambda *_: None)
    transport = httpx.ASGITransport(logged)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        with capture_logs() as lines:
            answer = await http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    (line,) = lines
    assert SECRET not in str(lines)
    assert str(len(SECRET) * "x") not in str(lines)
    error: dict[str, Any] = answer.json()["error"]
    assert line["code"] == error["code"]
    return error, dict(line)


@pytest.mark.parametrize(
    ("sent", "param", "logged"),
    [
        ({SECRET: 1}, SECRET, "*"),
        ({"x" * 10_000: 1}, "x" * 200, "*"),
        ({f"{SECRET}.{SECRET}": 1}, f"{SECRET}.{SECRET}", "*.*"),
        ({"messages": [{"role": "user", "content": "hello", SECRET: 1}]}, f"messages.0.{SECRET}", "messages.*.*"),
        ({SECRET: {"deep": "\ud800"}}, f"{SECRET}.deep", "*.*"),
        # what may be a token id
        ({"50256": 1}, "50256", "*"),
        # names of the API, supported or not
        ({"temperature": SECRET}, "temperature", "temperature"),
        ({"logit_bias": {SECRET: 1}}, f"logit_bias.{SECRET}", "logit_bias.*"),
        ({"messages": [{"role": SECRET, "content": "hello"}]}, "messages.0.role", "messages.*.role"),
    ],
)
async def test_names_that_a_caller_made_up_are_in_the_reply_and_not_in_the_log(
    sent: dict[str, Any], param: str, logged: str
) -> None:
    # as text, because a lone surrogate can only be escaped
    error, line = await refused("/chat", json.dumps({**CHAT, **sent}))
    assert error["param"] == param
    assert line["param"] == logged
    assert "reason" not in line


@pytest.mark.parametrize("body", [f'{{"{SECRET}": 1, "{SECRET}": 2}}', f'{{"prompt": {SECRET}', "[]", f'"{SECRET}"'])
async def test_of_a_body_that_is_no_json_the_log_has_the_code_alone(body: str) -> None:
    error, line = await refused("/completion", body)
    assert error["code"] == "invalid_json"
    assert not {"param", "reason"} & set(line)
