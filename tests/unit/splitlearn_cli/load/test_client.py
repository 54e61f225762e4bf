import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from splitlearn_cli.errors import ServiceRefused, ServiceUnreachable
from splitlearn_cli.load.client import Api, Endpoint, measure, request_of, served_model
from splitlearn_cli.load.plan import PlannedRequest
from splitlearn_cli.load.record import Record
from support.scripted_openai import PROMPT_TOKENS, RETRY_AFTER, ScriptedOpenAI

REQUEST = PlannedRequest(3, "the of and", 5, due=0.25)


async def ask(
    url: str, model: str, *, api: Api = "completions", timeout: float = 10.0, key: str | None = None
) -> Record:
    async with Endpoint(url, model, api, timeout, key).session() as session:
        return await measure(session, api, model, REQUEST, began=time.perf_counter())


@pytest.fixture
def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent_address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("api", ["completions", "chat"])
async def test_a_whole_answer_is_measured_from_first_chunk_to_last(openai: ScriptedOpenAI, api: Api) -> None:
    record = await ask(openai.url, "steady", api=api)

    assert record.failure is None
    assert (record.number, record.due, record.finish_reason) == (3, 0.25, "length")
    assert (record.max_tokens, record.output_tokens, record.prompt_tokens) == (5, 5, PROMPT_TOKENS)
    assert record.ttft is not None
    assert len(record.itl) == 4
    assert min(record.itl) >= 0
    assert 0 < record.ttft <= record.ttft + sum(record.itl) <= record.e2e
    assert record.sent >= 0


async def test_without_usage_the_chunks_are_counted(openai: ScriptedOpenAI) -> None:
    record = await ask(openai.url, "untold")

    assert (record.output_tokens, record.prompt_tokens, record.failure) == (5, None, None)


async def test_only_fields_that_every_server_knows_are_sent(openai: ScriptedOpenAI) -> None:
    common: dict[str, Any] = {
        "model": "steady",
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    await ask(openai.url, "steady")
    await ask(openai.url, "steady", api="chat", key="a key")

    plain, chat = openai.asked
    assert (plain.path, plain.body) == ("/v1/completions", {**common, "prompt": "the of and"})
    assert chat.path == "/v1/chat/completions"
    assert chat.body == {**common, "messages": [{"role": "user", "content": "the of and"}]}
    assert "authorization" not in plain.headers
    assert chat.headers["authorization"] == "Bearer a key"


def test_token_ids_are_sent_as_the_prompt() -> None:
    _, body = request_of("completions", "steady", PlannedRequest(0, (100, 101), 4))

    assert body["prompt"] == (100, 101)


async def test_a_429_is_counted_with_its_retry_after_and_not_repeated(openai: ScriptedOpenAI) -> None:
    record = await ask(openai.url, "busy")

    assert record.failure is not None
    assert record.failure.kind == "HTTP 429 with Retry-After"
    assert (record.failure.message, record.failure.retry_after) == ("too many requests", RETRY_AFTER)
    assert record.ttft is None
    assert len(openai.asked) == 1


async def test_a_500_is_counted_by_its_status_with_the_services_words(openai: ScriptedOpenAI) -> None:
    record = await ask(openai.url, "broken")

    assert record.failure is not None
    assert (record.failure.kind, record.failure.message) == ("HTTP 500", "out of order")
    assert record.failure.retry_after is None


async def test_a_hang_up_in_the_middle_keeps_what_had_come(openai: ScriptedOpenAI) -> None:
    record = await ask(openai.url, "hangup")

    assert record.failure is not None
    assert record.failure.kind == "incomplete"
    assert record.output_tokens == 2
    assert record.ttft is not None


async def test_an_answer_in_one_piece_is_no_stream(openai: ScriptedOpenAI) -> None:
    record = await ask(openai.url, "plain")

    assert record.failure is not None
    assert record.failure.kind == "not a stream"


async def test_silence_is_a_timeout(silent_address: str) -> None:
    record = await ask(silent_address, "steady", timeout=0.05)

    assert record.failure is not None
    assert record.failure.kind == "timeout"
    assert record.failure.message


async def test_an_unreachable_address_is_no_connection(free_address: str) -> None:
    record = await ask(free_address, "steady")

    assert record.failure is not None
    assert record.failure.kind == "no connection"


async def test_the_model_is_the_first_that_is_listed(openai: ScriptedOpenAI) -> None:
    async with Endpoint(openai.url, None, "chat", 10.0).session() as session:
        assert await served_model(session) == "steady"


async def test_an_unreachable_endpoint_without_a_model_is_an_error_with_the_address(free_address: str) -> None:
    async with Endpoint(free_address, None, "chat", 10.0).session() as session:
        with pytest.raises(ServiceUnreachable, match=rf"{free_address}.*--url"):
            await served_model(session)


async def test_an_endpoint_that_lists_no_model_asks_for_a_name(openai: ScriptedOpenAI) -> None:
    openai.models = ()

    async with Endpoint(openai.url, None, "chat", 10.0).session() as session:
        with pytest.raises(ServiceRefused, match="--model"):
            await served_model(session)


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Endpoint("http://127.0.0.1", "m", "chat", 1.0, "secret"))
