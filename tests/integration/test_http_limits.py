"""One stranger against a client service with few files: each abuse is refused, and nobody else waits or fails."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from splitlearn_client.answer import TokenDelta
from splitlearn_client.api.json_body import _StrictRequest
from splitlearn_client.api.schema import GenerationFields
from splitlearn_client.generation import GenerationRequest, Generator
from splitlearn_client.report import Report
from support.client_process import ClientProcess, becomes, break_off, client_process, refusal, to_the_end
from support.running_split import PATIENCE, RunningClient, free_port, running_client, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
FILES = 192
LIMITS = ("--max-body", "1MiB", "--header-timeout", 1, "--body-timeout", 1, "--send-timeout", 1)
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
# long, and quick to read
HONEST = b'{"model": "tiny", "prompt": "x"}'.ljust(MIB)
JSON = {"Content-Type": "application/json"}
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# what another request may wait beside an abuse; far more than it takes, on a busy machine
MOST_WAIT = 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tiny_weights: Path) -> AsyncIterator[ClientProcess]:
    """A service whose trunk is missing: whatever is let through gets 503."""
    async with client_process(tiny_weights, f"127.0.0.1:{free_port()}", *LIMITS, files=FILES) as process:
        async with httpx.AsyncClient(base_url=process.url, timeout=PATIENCE, trust_env=False) as http:
            # what is loaded with the first request is not memory that an abuse keeps
            await http.post("/v1/completions", json={"model": "tiny", "prompt": "the quick"})
        yield process


def posted(body: bytes, length: int | None = None) -> bytes:
    return HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


@asynccontextmanager
async def others_go_on(client: ClientProcess) -> AsyncIterator[None]:
    """Another caller asks all the while. Nothing of it fails, and the memory is back in the end."""
    before, longest, over = client.megabytes, 0.0, asyncio.Event()

    async def ask() -> None:
        nonlocal longest
        async with httpx.AsyncClient(base_url=client.url, timeout=PATIENCE, trust_env=False) as http:
            while not over.is_set():
                began = time.monotonic()
                try:
                    reply = await http.get("/v1/models")
                except (httpx.ReadError, httpx.RemoteProtocolError):
                    # its idle connection ended while the request was on its way; RFC 9112, 9.3.1: it tries again
                    reply = await http.get("/v1/models")
                assert reply.status_code == 200
                longest = max(longest, time.monotonic() - began)
                await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        over.set()
        await asking
    assert longest < MOST_WAIT
    await until(lambda: client.megabytes < 1.1 * before)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_is_refused_before_it_is_read(client: ClientProcess, chunked: bool) -> None:
    before = await client.counted("/v1/completions", "POST", 413)
    if chunked:
        pieces = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"] * 50]
        pieces.append(b"0\r\n\r\n")
    else:
        pieces = [posted(b"", 50 * MIB), *[bytes(MIB)] * 50]
    async with others_go_on(client):
        # all of it is sent before the answer is read, as many clients do
        answer = await client.exchange(*pieces)
    assert refusal(answer) == (413, "request_too_large")
    assert b"--max-body" in answer
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert await client.counted("/v1/completions", "POST", 413) == before + 1


@pytest.mark.parametrize(
    "values",
    [
        b'"prompt":[%s0]' % (b"[]," * 250_000),
        b'"prompt":[%s0]' % (b'"",' * 250_000),
        b'"prompt":%s' % (b"[" * 900_000),
        b'"prompt":"a","stop":[%s0]' % (b"0," * 500_000),
        b'"prompt":"a"' + b"".join(b',"%x":0' % i for i in range(100_000)),
    ],
    ids=["lists", "strings", "depth", "numbers", "fields"],
)
async def test_a_short_body_of_very_many_values_is_refused_before_it_is_parsed(
    client: ClientProcess, values: bytes
) -> None:
    async with others_go_on(client):
        answer = await client.exchange(posted(b'{"model":"tiny",' + values + b"}"))
    assert refusal(answer) == (413, "request_too_large")


async def uploads(
    running: RunningClient, stack: AsyncExitStack, count: int, length: int, sent: int
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Requests of which a part of the body has been sent; the stack breaks them off."""
    begun = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.http.base_url.port)
        stack.push_async_callback(break_off, writer)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % length + bytes(sent))
        begun.append((reader, writer))
    return begun


@pytest.mark.parametrize(
    ("strangers", "length", "drips"),
    [(12, MIB, False), (12, MIB, True), (240, 120 * 2**10, False)],
    ids=["silence", "a byte now and then", "many"],
)
async def test_stalled_uploads_are_dropped_for_those_that_make_progress(
    tiny_weights: Path, strangers: int, length: int, drips: bool
) -> None:
    # by --body-timeout alone they would have the room for a minute, longer than these tests wait
    async with (
        running_client(tiny_weights, f"127.0.0.1:{free_port()}", max_body=MIB) as running,
        AsyncExitStack() as stack,
    ):
        stalled = await uploads(running, stack, strangers, length, length * 7 // 8)

        async def drip() -> None:
            while True:
                for _, writer in stalled:
                    writer.write(b"a")
                await asyncio.sleep(0.02)

        if drips:
            stack.callback(asyncio.create_task(drip()).cancel)
        for n_before in range(3):
            answer = await running.http.post("/v1/completions", content=HONEST, headers=JSON)
            assert (n_before, answer.status_code) == (n_before, 503), answer.text
        # a connection that sends on is reset in the end, behind its answer
        answers = [bytes(reader._buffer) for reader, _ in stalled]  # type: ignore[attr-defined]
    statuses = {answer.removeprefix(b"HTTP/1.1 ")[:3] for answer in answers if answer}
    # on a busy machine some wait for room while the others still send their first bytes
    assert statuses in ({b"408"}, {b"408", b"429"})


async def test_a_slow_but_steady_upload_succeeds_beside_stalled_ones(tiny_weights: Path) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, MIB, MIB // 8):
            yield HONEST[start : start + MIB // 8]
            await asyncio.sleep(0.2)

    async with (
        running_client(tiny_weights, f"127.0.0.1:{free_port()}", max_body=MIB) as running,
        AsyncExitStack() as stack,
    ):
        await uploads(running, stack, 12, MIB, MIB - 1)
        answer = await running.http.post("/v1/completions", content=slowly(), headers=JSON)
    assert answer.status_code == 503, answer.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "prompt"),
    [("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})],
)
async def test_while_answers_are_generated_nothing_keeps_the_bodies_or_the_room_of_them(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    n_begun, ends = 0, asyncio.Event()

    async def generate(_self: Generator, _request: GenerationRequest, _report: Report) -> AsyncGenerator[TokenDelta]:
        nonlocal n_begun
        n_begun += 1
        await ends.wait()
        yield TokenDelta("a", finish_reason="stop")

    monkeypatch.setattr(Generator, "generate", generate)
    keepers = (GenerationFields, _StrictRequest)

    def kept() -> list[Any]:
        gc.collect()
        # not isinstance, which asks proxies for what they stand for
        return [each for each in gc.get_objects() if issubclass(type(each), keepers)]

    # an earlier test's traceback may hold its request; held here too, so that no id is given out twice
    of_others = kept()
    body = json.dumps({"model": "tiny", "stream": stream, **prompt}).encode().ljust(MIB)
    async with (
        running_client(tiny_weights, f"127.0.0.1:{free_port()}", max_body=MIB) as running,
        asyncio.TaskGroup() as group,
    ):
        asked = list[asyncio.Task[httpx.Response]]()
        # eight such bodies are all that may be under way together
        for n_before in range(10):
            asked.append(group.create_task(running.http.post(path, content=body, headers=JSON)))
            await until(lambda n=n_before: n_begun > n)
        of_these = [each for each in kept() if not any(each is other for other in of_others)]
        ends.set()
    assert [each.result().status_code for each in asked] == [200] * 10
    assert of_these == []


async def test_short_bodies_succeed_beside_long_stalled_ones(client: ClientProcess) -> None:
    async with AsyncExitStack() as stack, others_go_on(client):
        stalled = [await client.connect(stack) for _ in range(12)]
        for _, writer in stalled:
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % MIB + bytes(MIB - 1))
        short = refusal(await client.exchange(posted(json.dumps({"model": "tiny", "prompt": "x"}).encode())))
        first = [refusal(await to_the_end(reader)) for reader, _ in stalled]
    assert short == (503, "trunk_not_ready")
    # on a busy machine some may have waited for too long before the others were found to stand still
    assert (408, "request_timeout") in first
    assert set(first) <= {(408, "request_timeout"), (429, "too_busy")}


async def test_requests_that_do_not_go_on_cannot_take_all_connections(client: ClientProcess) -> None:
    async with AsyncExitStack() as stack, others_go_on(client):
        strangers = []
        for _ in range(2 * FILES):
            reader, writer = await client.connect(stack)
            writer.write(posted(b'{"mo', 100))
            strangers.append(reader)
        assert b" 200 OK" in await client.exchange(GET)
        ends = [refusal(answer) for each in strangers if (answer := await to_the_end(each))]
    assert set(ends) <= {(503, "too_many_connections"), (408, "request_timeout")}


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /health HTTP/1.1\r\nHost: local",
        b"GET /health HTTP/1.1\r\n",
        b"G",
        posted(b'{"mo', 100),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
async def test_a_request_that_does_not_come_to_an_end_is_given_up(client: ClientProcess, begun: bytes) -> None:
    async with AsyncExitStack() as stack:
        reader, writer = await client.connect(stack)
        writer.write(begun)

        async def drip() -> None:
            # a byte now and then does not help
            while not reader.at_eof():
                writer.write(b"a")
                await asyncio.sleep(0.3)

        dripping = asyncio.create_task(drip())
        stack.callback(dripping.cancel)
        assert refusal(await to_the_end(reader)) == (408, "request_timeout")


@pytest.mark.parametrize("begun", [b"", b"GET /he"])
async def test_more_idle_connections_than_files_close_the_oldest_and_block_no_caller(
    client: ClientProcess, begun: bytes
) -> None:
    async with AsyncExitStack() as stack, others_go_on(client):
        strangers = []
        for _ in range(2 * FILES):
            reader, writer = await client.connect(stack)
            writer.write(begun)
            strangers.append(reader)
        assert b" 200 OK" in await client.exchange(GET)
        answer = await to_the_end(strangers[0])
        assert not answer or refusal(answer) in [(503, "too_many_connections"), (408, "request_timeout")]
    assert client.process.returncode is None


async def test_a_body_in_chunks_of_a_byte_does_not_keep_others_waiting(client: ClientProcess) -> None:
    body = b'{"model": "tiny", "prompt": "' + b"x" * 8_000 + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    async with others_go_on(client):
        answer = await client.exchange(
            HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        )
    assert refusal(answer) == (503, "trunk_not_ready")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\0\1\2\r\n\r\n", (400, "invalid_http")),
        (b"GET / HTTP/1.1\r\n\r\n", (400, "invalid_http")),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400, "invalid_http")),
        (b"secret words " * 3 + b"\r\n\r\n", (400, "invalid_http")),
        (b"GET /" + b"x" * 300_000, (431, "invalid_http")),
        (b"GET /health HTTP/1.1\r\nHost: rebound.example\r\n\r\n", (421, "unknown_host")),
        (HEAD.replace(b"localhost", b"rebound.example:80") + b"Content-Length: 3\r\n\r\nabc", (421, "unknown_host")),
    ],
)
async def test_what_is_no_request_to_this_service_is_answered_in_openai_s_shape(
    client: ClientProcess, sent: bytes, expected: tuple[int, str]
) -> None:
    assert refusal(await client.exchange(sent)) == expected
    assert not [line for line in client.lines if "secret" in json.dumps(line)]


async def test_a_body_that_breaks_off_in_its_framing_is_refused(client: ClientProcess) -> None:
    sent = HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a length\r\n"
    assert refusal(await client.exchange(sent)) == (400, "invalid_http")


async def test_a_caller_that_does_not_read_is_dropped_and_costs_no_memory(client: ClientProcess) -> None:
    async with AsyncExitStack() as stack, others_go_on(client):
        _, writer = await client.connect(stack)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500

        async def ask_on() -> None:
            while True:
                writer.write(asked)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_on(), PATIENCE)


async def test_each_request_is_counted_and_has_one_line_that_tells_nothing_of_its_text(client: ClientProcess) -> None:
    wanted = [
        ("/v1/models", "GET", 200, GET.replace(b"/health", b"/v1/models")),
        ("/v1/models/{name:path}", "GET", 404, GET.replace(b"/health", b"/v1/models/none%0Dsuch")),
        ("other", "GET", 404, GET.replace(b"/health", b"/private?a=secret")),
        ("/health", "DELETE", 405, GET.replace(b"GET", b"DELETE")),
        ("/v1/models", "other", 405, GET.replace(b"GET /health", b"BREW /v1/models")),
        ("/v1/completions", "POST", 503, posted(b'{"model":"tiny","prompt":"secret"}')),
        ("/v1/completions", "POST", 400, posted(b'{"model":"tiny","prompt":"secret","n":700}')),
        ("/v1/completions", "POST", 404, posted(b'{"model":"secret","prompt":"x"}')),
        ("/v1/completions", "POST", 400, posted(b"secret{")),
        ("/v1/completions", "POST", 400, HEAD + b"Transfer-Encoding: chunked\r\n\r\nsecret\r\n"),
        ("other", "other", 400, b"secret\r\n\r\n"),
    ]
    for path, method, status, sent in wanted:
        before, n_lines = await client.counted(path, method, status), len(client.lines)
        await client.exchange(sent)
        assert await client.counted(path, method, status) == before + 1
        (line,) = [each for each in client.lines[n_lines:] if each.get("event") in ("request", "request refused")]
        assert line["status"] == status
        assert status < 400 or line["code"]
        assert "secret" not in json.dumps(line)
        assert "\n" not in line.get("path", "")


async def test_probes_have_no_line_as_long_as_they_are_answered(client: ClientProcess) -> None:
    n_lines = len(client.lines)
    for path in (b"/health", b"/ready", b"/metrics"):
        await client.exchange(GET.replace(b"/health", path))
    await client.exchange(GET.replace(b"/health", b"/v1/models"))
    await until(lambda: len(client.lines) > n_lines)
    assert [line.get("path") for line in client.lines[n_lines:] if "path" in line] == ["/v1/models"]


async def test_a_caller_who_hangs_up_is_counted_as_such(client: ClientProcess) -> None:
    before = await client.counted("/v1/completions", "POST", 499)
    async with AsyncExitStack() as stack:
        _, writer = await client.connect(stack)
        writer.write(posted(b'{"mo', 100))
        await writer.drain()

    async def seen() -> bool:
        return await client.counted("/v1/completions", "POST", 499) == before + 1

    await becomes(seen)


async def test_pages_of_other_origins_can_read_refusals_too(tiny_weights: Path) -> None:
    page = {"Origin": "http://localhost:3000"}
    async with running_client(
        tiny_weights, f"127.0.0.1:{free_port()}", allowed_origins=page["Origin"], max_body=MIB
    ) as running:
        for path, status, headers in (
            ("/v1/completions", 413, {}),
            ("/v1/completions", 421, {"Host": "evil.example"}),
            ("/nothing", 404, {}),
        ):
            body = b" " * (2 * MIB if status == 413 else 1)
            answer = await running.http.post(path, content=body, headers=page | headers)
            assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, page["Origin"])


async def test_the_service_lives_and_has_seen_no_fault_of_its_own(client: ClientProcess) -> None:
    assert client.process.returncode is None
    assert not [line for line in client.lines if line.get("level") == "error" or "exception" in line]
