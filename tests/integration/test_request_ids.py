"""X-Request-Id in every response and in the log of every service on the way, and what else a request leaves behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from splitlearn_comm import Frame, RequestContext, SessionOpening
from support.client_process import ClientProcess, client_process
from support.running_split import PATIENCE, RunningClient, Split, free_port, running_client, running_trunk, until

WANTED: dict[str, Any] = {"prompt": [5, 6, 7, 8, 9], "max_tokens": 3}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def asked(client: RunningClient, request_id: str, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "temperature": 0, **WANTED, **fields}
    return await client.http.post("/v1/completions", json=body, headers={"X-Request-Id": request_id})


@pytest.mark.parametrize(
    ("fields", "status"), [({}, 200), ({"stream": True}, 200), ({"model": "nobody"}, 404), ({"n": 700}, 400)]
)
async def test_a_response_has_the_id_of_its_request(split: Split, fields: dict[str, Any], status: int) -> None:
    response = await asked(split.client, "req-1", **fields)
    assert (response.status_code, response.headers.get_list("X-Request-Id")) == (status, ["req-1"])


async def test_a_request_without_a_usable_id_gets_a_new_one(split: Split) -> None:
    headers = ({}, {"X-Request-Id": "two words"}, {"X-Request-Id": "a" * 129})
    answers = [await split.client.http.get("/v1/models", headers=each) for each in headers]
    ids = [answer.headers["X-Request-Id"] for answer in answers]
    assert len({*ids}) == 3
    assert all(len(each) == 32 and each.isalnum() for each in ids)


@pytest.fixture
async def alone(client_weights: Path) -> AsyncIterator[ClientProcess]:
    """A client service without a trunk, whose patience is short."""
    trunk = f"127.0.0.1:{free_port()}"
    flags = ("--header-timeout", 1, "--max-body", 2000, "--allowed-hosts", "localhost")
    async with client_process(client_weights, trunk, *flags) as client:
        yield client


async def test_refusals_before_the_application_have_an_id_too_and_their_log_line_has_the_same(
    alone: ClientProcess,
) -> None:
    post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: req-%d\r\n"
    given = [
        post % 413 + b"Content-Length: 2001\r\n\r\n",
        post % 421 + b"Content-Length: 0\r\n\r\n",
        post % 400 + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ]
    given[1] = given[1].replace(b"Host: localhost", b"Host: evil.example")
    for sent, status in zip(given, (413, 421, 400), strict=True):
        assert await id_in_log_and_answer(alone, sent, status) == f"req-{status}"
    # no request was understood in these
    made_up = [await id_in_log_and_answer(alone, b"nonsense\r\n\r\n", 400) for _ in range(2)]
    made_up.append(await id_in_log_and_answer(alone, post % 408, 408))
    assert len({*made_up}) == 3


async def id_in_log_and_answer(client: ClientProcess, sent: bytes, status: int) -> str:
    n_lines = len(client.lines)
    head = (await client.exchange(sent)).partition(b"\r\n\r\n")[0].decode()
    assert int(head.split()[1]) == status
    (answered,) = [line.partition(": ")[2] for line in head.splitlines() if line.lower().startswith("x-request-id")]
    await until(lambda: any("status" in line for line in client.lines[n_lines:]))
    (logged,) = [line["request_id"] for line in client.lines[n_lines:] if "status" in line]
    assert logged == answered
    return answered


async def test_every_stage_of_a_chain_logs_the_id_of_the_request(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights, "2-4") as last,
        running_trunk(tiny_weights, "1-2", next=last.address) as first,
        running_client(tiny_weights, first.address) as client,
    ):
        await client.ready()
        with capture_logs(processors=[merge_contextvars]) as lines:
            answers = await asyncio.gather(*(asked(client, f"req-{number}") for number in range(3)))
            await until(lambda: first.open_sessions == last.open_sessions == 0)
        assert [answer.status_code for answer in answers] == [200] * 3
    for number in range(3):
        events = [line["event"] for line in lines if line.get("request_id") == f"req-{number}"]
        assert sorted(events) == ["request", "request finished", *["session closed"] * 2, *["session opened"] * 2]
    # what belongs to nobody's request names none
    assert {line["event"] for line in lines if "request_id" not in line} == set()


async def test_an_engine_s_steps_are_in_no_request_s_name(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(split.trunk.trunk.metrics, "step_done", lambda *_: seen.append(get_contextvars()))
    await asked(split.client, "req-1")
    assert seen
    assert not any(seen)


async def test_a_trunk_logs_no_id_that_is_not_one(split: Split) -> None:
    fingerprint = split.trunk.fingerprint
    with capture_logs(processors=[merge_contextvars]) as lines:
        for text in ("req-1", "a" * 200, "two words"):
            opening = SessionOpening("test", fingerprint, 8, context=RequestContext(text))
            async with split.trunk.client.stream(opening) as stream:
                await stream.step(Frame(0, torch.ones(3, 64)))
    opened = [line for line in lines if line["event"] == "session opened"]
    assert [line.get("request_id") for line in opened] == ["req-1", None, None]


async def test_a_request_has_one_line_that_says_where_its_time_went(split: Split) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        response = await asked(split.client, "req-1", prompt="the quick brown fox")
    (line,) = [line for line in lines if line["event"] == "request finished"]
    usage = response.json()["usage"]
    assert {name: line[name] for name in ("request_id", "finish_reason", "replays", "failovers", "cached_tokens")} == {
        "request_id": "req-1",
        "finish_reason": "length",
        "replays": 0,
        "failovers": 0,
        "cached_tokens": 0,
    }
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], 3)
    seconds = {name.removesuffix("_seconds") for name in line if name.endswith("_seconds")}
    stations = {"bottom", "wire", "trunk_queue", "trunk", "top", "sampling"}
    assert seconds == {"tokenize", "time_to_first_token", "queue", "prefill", "decode"} | stations
    assert line["time_to_first_token_seconds"] == pytest.approx(
        line["queue_seconds"] + line["prefill_seconds"], abs=2e-4
    )
    assert all(line[f"{name}_seconds"] >= 0 for name in seconds)
    assert "tenant" not in line


async def test_the_line_of_a_request_that_failed_has_its_code_and_never_the_prompt(split: Split) -> None:
    await split.trunk.server.stop()
    await until(lambda: not split.client.is_ready)
    async with asyncio.timeout(PATIENCE):
        with capture_logs(processors=[merge_contextvars]) as lines:
            response = await asked(split.client, "req-1", prompt="secret words")
    assert response.status_code == 503
    (line,) = [line for line in lines if line["event"] == "request finished"]
    expected = {"finish_reason": "error", "code": "trunk_not_ready", "log_level": "warning"}
    assert {name: line[name] for name in expected} == expected
    assert "secret" not in json.dumps(lines)


async def test_a_request_of_several_prompts_has_a_line_for_each(split: Split) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        await asked(split.client, "req-1", prompt=["the quick", "brown fox"])
    finished = [line for line in lines if line["event"] == "request finished"]
    assert [line["request_id"] for line in finished] == ["req-1", "req-1"]
    assert ["tokenize_seconds" in line for line in finished] == [True, False]


async def test_a_caller_s_trace_reaches_the_trunk_though_nothing_is_traced(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, seen = split.trunk.trunk.servicer, []
    honest = servicer.open

    async def watched(opening: SessionOpening) -> Any:
        seen.append(opening.context)
        return await honest(opening)

    monkeypatch.setattr(servicer, "open", watched)
    headers = {"X-Request-Id": "req-1", "traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    await split.client.http.post("/v1/completions", json={"model": "tiny", **WANTED}, headers=headers)
    assert seen == [RequestContext("req-1", TRACEPARENT, "vendor=1")]


async def test_refusals_are_counted_by_their_code_and_answers_are_none(split: Split) -> None:
    for fields in ({}, {"model": "nobody"}, {"n": 700}, {"n": 700}):
        await asked(split.client, "req-1", **fields)
    await split.client.http.get("/nowhere")
    codes = ("model_not_found", "invalid_value", "http_error", "internal_error")
    assert [split.client.value("refusals_total", code=code, tenant="") for code in codes] == [1, 2, 1, 0]
