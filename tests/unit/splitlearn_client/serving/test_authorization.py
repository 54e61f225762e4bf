import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from splitlearn_client.request_info import read_info
from splitlearn_client.serving.authorization import Authorization
from splitlearn_client.serving.tenant_directory import TenantDirectory
from support.running_split import until

FILE = """
[alice]
keys = ["alices-key-0123456789"]
max_parallel_requests = 1

[bob]
keys = ["bobs-key-0123456789"]
metrics = true
"""


@dataclass
class Exchange:
    """A request whose body comes only if it is read, and the response."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    was_read: bool = False
    sent: list[Message] = field(default_factory=list)

    @property
    def scope(self) -> dict[str, Any]:
        return {"type": "http", "method": self.method, "path": self.path, "headers": self.headers}

    async def receive(self) -> Message:
        # what refuses a request may read its body only after the response
        self.was_read = self.was_read or not self.sent
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def sent_headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(b"".join(each.get("body", b"") for each in self.sent[1:]))["error"])


@dataclass
class App:
    """Says whose a request is, once it may."""

    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    n_running: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.n_running += 1
        try:
            await receive()
            await self.may_answer.wait()
            await PlainTextResponse(read_info(scope).tenant)(scope, receive, send)
        finally:
            self.n_running -= 1


@dataclass
class Scene:
    app: App
    middleware: Authorization
    counted: list[str]

    async def asked(self, path: str, *authorization: str, method: str = "POST") -> Exchange:
        headers = [(b"authorization", each.encode()) for each in authorization]
        exchange = Exchange(method, path, headers)
        await self.middleware(exchange.scope, exchange.receive, exchange.send)
        return exchange


def scene(directory: TenantDirectory, *, protect_metrics: bool = False) -> Scene:
    counted: list[str] = []
    app = App()
    app.may_answer.set()
    return Scene(app, Authorization(app, directory, protect_metrics, counted.append), counted)


@pytest.fixture
def directory(tmp_path: Path) -> TenantDirectory:
    (tmp_path / "tenants.toml").write_text(FILE)
    return TenantDirectory(tmp_path / "tenants.toml", "the-operators-key")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models", "/anything", "/health/", "//health", "/Ready"])
@pytest.mark.parametrize(
    "authorization",
    [
        (),
        ("Bearer wrong",),
        ("Bearer alices-key-0123456789 x",),
        ("Basic YWxpY2VzLWtleQ==",),
        ("alices-key-0123456789",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer " + "k" * 10_000,),
        ("Bearer alices-key-0123456789", "Bearer alices-key-0123456789"),
        ("Bearer wrong", "Bearer alices-key-0123456789"),
    ],
)
async def test_without_a_valid_key_nothing_is_read(
    directory: TenantDirectory, path: str, authorization: tuple[str, ...]
) -> None:
    refused = await scene(directory).asked(path, *authorization)
    assert (refused.status, refused.was_read) == (401, False)
    challenge = b'Bearer error="invalid_token"' if authorization else b"Bearer"
    assert refused.sent_headers[b"www-authenticate"] == challenge
    assert (refused.error["type"], refused.error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "wrong" not in str(refused.error)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
async def test_a_valid_key_opens_every_path_and_says_whose_it_is(directory: TenantDirectory, scheme: str) -> None:
    given = scene(directory)
    for key, name in (("alices-key-0123456789", b"alice"), ("bobs-key-0123456789", b"bob"), ("the-operators-key", b"")):
        for method in ("POST", "GET"):
            answered = await given.asked("/v1/completions", f"{scheme} {key}", method=method)
            assert (answered.status, answered.sent[1]["body"]) == (200, name)
    # of GET nothing is counted
    assert given.counted == ["alice", "bob", ""]


@dataclass(frozen=True)
class Sent:
    """Headers of a request, and the status that it gets."""

    headers: list[tuple[bytes, bytes]]
    status: int


ALICES, WRONG = b"alices-key-0123456789", b"another-key-0123456789"


@pytest.mark.parametrize(
    "sent",
    [
        Sent([(b"x-api-key", ALICES)], 200),
        Sent([(b"x-api-key", WRONG)], 401),
        Sent([(b"x-api-key", b"")], 401),
        Sent([(b"x-api-key", b"Bearer " + ALICES)], 401),
        Sent([(b"x-api-key", ALICES), (b"x-api-key", ALICES)], 401),
        # what is in the header of the standard counts
        Sent([(b"authorization", b"Bearer " + ALICES), (b"x-api-key", WRONG)], 200),
        Sent([(b"authorization", b"Bearer " + WRONG), (b"x-api-key", ALICES)], 401),
    ],
    ids=str,
)
async def test_a_key_may_come_in_the_header_of_anthropics_clients(directory: TenantDirectory, sent: Sent) -> None:
    exchange = Exchange("POST", "/v1/messages", sent.headers)
    await scene(directory).middleware(exchange.scope, exchange.receive, exchange.send)
    assert exchange.status == sent.status
    assert exchange.was_read is (sent.status == 200)


@pytest.mark.parametrize("path", ["/", "/page/vendor/marked.js", "/health", "/ready", "/metrics"])
async def test_probes_the_page_and_metrics_need_no_key(directory: TenantDirectory, path: str) -> None:
    assert (await scene(directory).asked(path, method="GET")).status == 200


@pytest.mark.parametrize("path", ["/page", "/pages/", "/v1/page/", "/v1/models"])
async def test_a_path_that_only_looks_like_the_page_s_needs_a_key(directory: TenantDirectory, path: str) -> None:
    assert (await scene(directory).asked(path, method="GET")).status == 401


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ((), 401),
        (("Bearer wrong",), 401),
        (("Bearer alices-key-0123456789",), 403),
        (("Bearer bobs-key-0123456789",), 200),
    ],
)
async def test_protected_metrics_are_for_those_who_may(
    directory: TenantDirectory, authorization: tuple[str, ...], status: int
) -> None:
    given = scene(directory, protect_metrics=True)
    assert (await given.asked("/metrics", *authorization, method="GET")).status == status
    assert (await given.asked("/metrics", "Bearer the-operators-key", method="GET")).status == 200
    assert (await given.asked("/ready", method="GET")).status == 200


async def test_a_tenant_at_its_quota_is_refused_before_its_body_is_read_and_nobody_else_is(
    directory: TenantDirectory,
) -> None:
    given = scene(directory)
    given.app.may_answer.clear()
    running = asyncio.create_task(given.asked("/v1/completions", "Bearer alices-key-0123456789"))
    await until(lambda: given.app.n_running == 1)
    refused = await given.asked("/v1/completions", "Bearer alices-key-0123456789")
    assert (refused.status, refused.was_read) == (429, False)
    assert int(refused.sent_headers[b"retry-after"]) >= 1
    assert (refused.error["type"], refused.error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    others = [asyncio.create_task(given.asked("/v1/completions", "Bearer bobs-key-0123456789")) for _ in range(3)]
    # what is no request for a completion has no quota
    reading = asyncio.create_task(given.asked("/v1/models", "Bearer alices-key-0123456789", method="GET"))
    await until(lambda: given.app.n_running == 5)
    given.app.may_answer.set()
    assert {(await each).status for each in (running, reading, *others)} == {200}
    assert (await given.asked("/v1/completions", "Bearer alices-key-0123456789")).status == 200
    assert given.counted == ["alice", "bob", "bob", "bob", "alice"]


async def test_a_request_that_fails_or_is_left_gives_its_place_back(directory: TenantDirectory) -> None:
    given = scene(directory)
    given.app.may_answer.clear()
    left = asyncio.create_task(given.asked("/v1/completions", "Bearer alices-key-0123456789"))
    await until(lambda: given.app.n_running == 1)
    left.cancel()
    await asyncio.wait({left})
    given.app.may_answer.set()
    assert (await given.asked("/v1/completions", "Bearer alices-key-0123456789")).status == 200


async def test_without_keys_everybody_is_let_in() -> None:
    given = scene(TenantDirectory(None, None))
    for authorization in ((), ("Bearer EMPTY",), ("Basic eDp5",)):
        assert (await given.asked("/v1/completions", *authorization)).status == 200
    assert given.counted == ["", "", ""]


async def test_strangers_leave_nothing_behind(directory: TenantDirectory) -> None:
    given = scene(directory)
    before = repr(vars(directory)["_accounts"])
    for i in range(100):
        await given.asked("/v1/completions", f"Bearer guess-{i}")
    assert repr(vars(directory)["_accounts"]) == before
    assert given.counted == []
