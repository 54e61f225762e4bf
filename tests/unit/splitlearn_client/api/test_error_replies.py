"""Every error as HTTP shows it: through the real request models, an ASGI client and no network."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from structlog.testing import capture_logs

from splitlearn_client import errors
from splitlearn_client.api import error_replies
from splitlearn_client.api.json_body import ApiRoute
from splitlearn_client.api.schema import ChatFields, CompletionFields
from splitlearn_comm import (
    CommError,
    FingerprintMismatch,
    InvalidTensor,
    Overloaded,
    RemoteFailure,
    SessionTooLong,
    TimedOut,
    UnknownCodec,
    Unreachable,
)

SECRET = "what nobody else may read"
RAISED: dict[str, Exception] = {
    "bad": errors.BadRequest("no such thing", "stop"),
    "long": errors.PromptTooLong("too long"),
    "template": errors.NoChatTemplate("no template"),
    "model": errors.UnknownModel("unknown"),
    "ready": errors.TrunkNotReady("nobody there"),
    "failed": errors.TrunkFailed("broke down"),
    "numbers": errors.BrokenNumbers("NaN"),
    "left": ClientDisconnect(),
    "bug": KeyError(SECRET),
}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    routes = APIRouter(route_class=ApiRoute)

    @routes.post("/completion")
    async def completion(fields: CompletionFields) -> str:
        return fields.model

    @routes.post("/chat")
    async def chat(fields: ChatFields) -> str:
        return fields.model

    @routes.get("/raise/{name}")
    async def fail(name: str) -> None:
        raise RAISED[name]

    @routes.put("/kept/{name}")
    async def keep(name: str) -> str:
        return name

    @routes.delete("/kept/{name}")
    async def remove(name: str) -> str:
        return name

    @routes.get("/breaks-off")
    async def break_off() -> StreamingResponse:
        async def half() -> AsyncIterator[str]:
            yield "half"
            raise RAISED["bug"]

        return StreamingResponse(half())

    app.include_router(routes)
    error_replies.install(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error, after checking that its body has OpenAI's shape and nothing else."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    assert "pydantic" not in response.text
    return error


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": SECRET, **fields}


def chat(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"model": "tiny", ', "character 18"),
        (b"{'model': 1}", "character 1"),
        (b"not json", "character 0"),
        (b'{"model": "\xff"}', "not UTF-8 at character 11"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b"[" * 5000, "levels deep"),
        (b"9" * 5000, "too many digits"),
    ],
)
async def test_malformed_json_is_located(http: httpx.AsyncClient, body: bytes, where: str) -> None:
    response = await http.post("/completion", content=body, headers={"Content-Type": "application/json"})
    error = error_of(response, 400)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_json", None)
    assert "not valid JSON" in error["message"]
    assert error["message"].endswith(where)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b'"text"', "application/json"),
        (b'{"model": "tiny", "prompt": "x"}', "text/plain"),
        (b'{"model": "tiny", "prompt": "x"}', "application/x-www-form-urlencoded"),
    ],
)
async def test_a_body_that_is_no_json_object_gets_an_error_that_says_what_to_send(
    http: httpx.AsyncClient, body: bytes, kind: str
) -> None:
    error = error_of(await http.post("/completion", content=body, headers={"Content-Type": kind}), 400)
    assert "Content-Type: application/json" in error["message"]
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/completion", completion(suffix="x"), "suffix", "not supported here; leave it out"),
        ("/completion", {"prompt": SECRET}, "model", "this field is required"),
        ("/completion", {"model": "tiny"}, "prompt", "this field is required"),
        ("/completion", completion(max_tokens="many"), "max_tokens", "valid integer"),
        ("/completion", completion(temperature=3), "temperature", "less than or equal to 2"),
        ("/completion", completion(body=1), "body", "not supported here; leave it out"),
        ("/completion", completion(prompt=5), "prompt", "a string, a list of strings, a list of token ids, or"),
        ("/completion", completion(prompt=[{}]), "prompt", "a string, a list of strings, a list of token ids, or"),
        ("/completion", completion(prompt=[1, "x"]), "prompt.1", "valid integer"),
        ("/completion", completion(prompt=["x", 1]), "prompt.1", "valid string"),
        ("/completion", completion(prompt=[[1], [2, "x"]]), "prompt.1.1", "valid integer"),
        ("/completion", completion(prompt=""), "prompt", "at least 1"),
        ("/completion", completion(prompt=["x", ""]), "prompt.1", "at least 1"),
        ("/completion", completion(prompt=[]), "prompt", "at least 1"),
        ("/completion", completion(prompt=[[1], []]), "prompt.1", "at least 1"),
        ("/completion", completion(prompt=["x", "\ud800"]), "prompt.1", "surrogate"),
        ("/completion", completion(max_tokens=-1), "max_tokens", "greater than or equal to 0"),
        ("/completion", completion(stop=5), "stop", "a string, or a list of strings"),
        ("/completion", completion(stop=[1]), "stop.0", "valid string"),
        ("/completion", completion(stop=[""]), "stop.0", "at least 1 character"),
        ("/completion", completion(stop=["x", "\udfff"]), "stop.1", "surrogate"),
        ("/completion", completion(user="\ud800"), "user", "surrogate"),
        ("/completion", completion(metadata={"a": ["\ud800"]}), "metadata.a.0", "surrogate"),
        ("/completion", completion(metadata={"\ud800": 1}), "metadata", "surrogate"),
        ("/completion", completion(**{"x" * 999: 1}), "x" * 200, "not supported here; leave it out"),
        ("/completion", completion(**{"": 1}), "''", "not supported"),
        ("/completion", completion(**{"<text>": 1}), "'<text>'", "not supported"),
        ("/completion", completion(stream_options={"x": 1}), "stream_options.x", "not supported"),
        ("/chat", {"model": "tiny", "messages": [{"role": "user"}]}, "messages.0.content", "required"),
        ("/chat", {"model": "tiny", "messages": [{"role": "user", "content": 5}]}, "messages.0.content", "string"),
        ("/chat", {"model": "tiny", "messages": [{"role": "me", "content": "x"}]}, "messages.0.role", "'user'"),
        ("/chat", {"model": "tiny", "messages": []}, "messages", "at least 1"),
        ("/chat", {"model": "tiny", "messages": [None]}, "messages.0", "expected an object"),
        ("/chat", {"model": "tiny", "messages": ["hi"]}, "messages.0", "expected an object"),
        ("/chat", {"model": "tiny", "messages": "hi"}, "messages", "valid list"),
        ("/chat", chat(["hi"]), "messages.0.content.0", "expected an object"),
        ("/chat", chat("x", stream_options=True), "stream_options", "expected an object"),
        ("/chat", chat([{"type": "text", "text": 5}]), "messages.0.content.0.text", "valid string"),
        ("/chat", chat([{"type": "text", "text": "\ud83d"}]), "messages.0.content.0.text", "surrogate"),
        ("/chat", chat([{"type": "image_url", "image_url": {}}]), "messages.0.content.0.type", "'text'"),
        ("/chat", chat("x", top_logprobs=2), "top_logprobs", "needs logprobs"),
        ("/chat", chat("x", structured_outputs={"json": 5}), "structured_outputs.json", "an object, or its text"),
        ("/completion", completion(structured_outputs={"json": []}), "structured_outputs.json", "or its text"),
        ("/chat", chat("x", response_format={"type": "xml"}), "response_format.type", "'text', 'json_object' or"),
        ("/chat", chat("x", response_format={"type": "text", "schema": {}}), "response_format.schema", "leave it out"),
        ("/chat", chat("x", tool_choice="any"), "tool_choice", '"none", "auto", "required", or a tool'),
        ("/chat", chat("x", tool_choice=[]), "tool_choice", '"none", "auto", "required", or a tool'),
    ],
)
async def test_a_field_that_does_not_fit_is_named_and_its_value_is_not_repeated(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], param: str | None, words: str
) -> None:
    # escaped, because httpx's own JSON cannot carry half of a surrogate pair
    response = await http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    error = error_of(response, 400)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_value", param)
    assert words in error["message"]
    assert param is None or error["message"].startswith(f"{param}: ")
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ('"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": [1, 1e999]}}}]', "x.1"),
        ('"chat_template_kwargs": {"x": -1e999}', "chat_template_kwargs.x"),
        ('"metadata": {"x": 1e999}', "metadata.x"),
        ('"temperature": 1e999', "temperature"),
    ],
)
async def test_a_number_that_is_infinite_when_it_is_read_is_refused_at_its_place(
    http: httpx.AsyncClient, field: str, param: str
) -> None:
    body = json.dumps(chat("x"))[:-1] + f", {field}}}"
    error = error_of(await http.post("/chat", content=body, headers={"Content-Type": "application/json"}), 400)
    assert error["param"].endswith(param)
    assert error["message"] == f"{error['param']}: this number is too large"


async def test_a_path_that_does_not_exist_and_a_wrong_method_have_the_same_shape(http: httpx.AsyncClient) -> None:
    missing = error_of(await http.get("/v2/nothing"), 404)
    assert missing["type"] == "invalid_request_error"
    assert "/v1/chat/completions" in missing["message"]
    assert error_of(await http.get("/completion"), 405)["code"] == "http_error"


@pytest.mark.parametrize(
    ("name", "status", "kind", "code"),
    [
        ("bad", 400, "invalid_request_error", "invalid_value"),
        ("long", 400, "invalid_request_error", "context_length_exceeded"),
        ("template", 400, "invalid_request_error", "no_chat_template"),
        ("model", 404, "invalid_request_error", "model_not_found"),
        ("ready", 503, "server_error", "trunk_not_ready"),
        ("failed", 502, "server_error", "trunk_failed"),
        ("numbers", 500, "server_error", "broken_numbers"),
    ],
)
async def test_each_error_of_a_request_has_its_status_type_and_code(
    http: httpx.AsyncClient, name: str, status: int, kind: str, code: str
) -> None:
    response = await http.get(f"/raise/{name}")
    error = error_of(response, status)
    assert (error["type"], error["code"], error["message"]) == (kind, code, str(RAISED[name]))
    assert error["param"] == ("stop" if name == "bad" else None)
    assert response.headers.get("Retry-After") == ("1" if status == 503 else None)


async def test_a_bug_shows_its_type_to_the_caller_and_the_rest_to_the_log(http: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        response = await http.get("/raise/bug")
    error = error_of(response, 500)
    assert error["code"] == "internal_error"
    assert "KeyError" in error["message"]
    assert SECRET not in response.text
    assert [line["event"] for line in logs] == ["request failed"]
    assert logs[0]["exc_info"] is RAISED["bug"]


async def test_a_bug_in_the_middle_of_an_answer_breaks_it_off(http: httpx.AsyncClient) -> None:
    # the server closes the connection, and logs what it is given
    transport = httpx.ASGITransport(http._transport.app)  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(KeyError):
            await client.get("/breaks-off")


async def test_a_method_that_a_path_does_not_take_is_answered_with_those_that_it_takes(http: httpx.AsyncClient) -> None:
    assert (await http.get("/chat")).headers["Allow"] == "POST"
    assert (await http.post("/raise/bad")).headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["GET", "PATCH", "OPTIONS", "TRACE"])
async def test_the_methods_of_a_path_are_those_of_all_its_routes(http: httpx.AsyncClient, method: str) -> None:
    refused = await http.request(method, "/kept/a")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "DELETE, PUT")


async def test_a_disconnect_is_no_failure_in_the_log(http: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        assert (await http.get("/raise/left")).status_code == 499
    assert logs == []


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (Unreachable("x"), errors.TrunkNotReady),
        (Overloaded("x"), errors.TooBusy),
        (UnknownCodec("x"), errors.TrunkNotReady),
        (FingerprintMismatch("x"), errors.TrunkNotReady),
        (SessionTooLong("x"), errors.PromptTooLong),
        (TimedOut("x"), errors.TrunkFailed),
        (InvalidTensor("x"), errors.TrunkFailed),
        (RemoteFailure("x"), errors.TrunkFailed),
    ],
)
def test_errors_of_the_wire_become_errors_of_the_request(error: CommError, becomes: type[Exception]) -> None:
    request_error = errors.from_wire(error)
    assert type(request_error) is becomes
    assert "x" in str(request_error)


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.InvalidAPIKey("which?", "Bearer"), {"WWW-Authenticate": "Bearer"}),
        (errors.QuotaExceeded("used up", retry_after=2.1), {"Retry-After": "3"}),
        (errors.TrunkNotReady("none"), {"Retry-After": "1"}),
        (errors.Forbidden("not this"), {}),
    ],
)
def test_headers_say_what_to_do(error: errors.RequestError, headers: dict[str, str]) -> None:
    assert error_replies.headers(error) == headers
