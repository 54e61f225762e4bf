"""The Messages API over a real trunk, and over scripted outputs of a family's form.

What Anthropic's own package makes of it is in tests/clients.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.running_split import Split, running_split, until
from support.staged_service import Stage, staged
from support.tool_templates import FAMILIES

QUESTION = {"role": "user", "content": "who jumps?"}
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 12, "messages": [QUESTION]}
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


async def asked(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await http.post("/v1/messages", json={**GREEDY, **fields})
    assert reply.status_code == 200, reply.text
    message: dict[str, Any] = reply.json()
    return message


async def refused(http: httpx.AsyncClient, status: int, path: str = "/v1/messages", **fields: Any) -> dict[str, Any]:
    """The error, after checking that it has Anthropic's envelope."""
    reply = await http.post(path, json={**GREEDY, **fields})
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body["type"] == "error"
    error: dict[str, Any] = body["error"]
    return error


async def events_of(http: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, after checking that each is named after its type."""
    async with http.stream("POST", "/v1/messages", json={**GREEDY, **fields, "stream": True}) as response:
        assert response.status_code == 200
        text = "".join([part async for part in response.aiter_text()])
    events = []
    for each in text.strip().split("\n\n"):
        name, data = each.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


async def chat(split: Split, messages: list[Any], **fields: Any) -> str:
    reply = await split.client.openai.chat.completions.create(
        model="tiny", temperature=0, max_tokens=12, messages=messages, **fields
    )
    return str(reply.choices[0].message.content)


async def test_an_answer_is_that_of_a_chat_whole_and_streamed(split: Split) -> None:
    text = await chat(split, [{"role": "system", "content": "be brief"}, QUESTION])
    whole = await asked(split.client.http, system="be brief")
    assert whole["content"] == [{"type": "text", "text": text}]
    assert (whole["stop_reason"], whole["role"], whole["type"]) == ("max_tokens", "assistant", "message")
    assert whole["usage"]["output_tokens"] == 12
    events = await events_of(split.client.http, system="be brief")
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == text
    assert events[-2]["usage"]["output_tokens"] == 12
    spent = whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"]
    counted = {name: GREEDY[name] for name in ("model", "messages")} | {"system": "be brief"}
    reply = await split.client.http.post("/v1/messages/count_tokens", json=counted)
    assert reply.json() == {"input_tokens": spent}


async def test_an_answer_goes_on_with_the_words_of_the_assistant(split: Split) -> None:
    messages = [QUESTION, {"role": "assistant", "content": "the fox"}]
    begun: Any = {"continue_final_message": True, "add_generation_prompt": False}
    text = await chat(split, messages, extra_body=begun)
    assert (await asked(split.client.http, messages=messages))["content"][0]["text"] == text


async def test_a_stop_sequence_is_told(split: Split) -> None:
    text = (await asked(split.client.http, max_tokens=40))["content"][0]["text"]
    stop = next(text[i : i + 3] for i in range(1, len(text)) if text.index(text[i : i + 3]) > 0)
    stopped = await asked(split.client.http, max_tokens=40, stop_sequences=["never in there", stop])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", stop)
    assert stopped["content"][0]["text"] == text[: text.index(stop)]


async def test_an_answer_follows_a_schema(split: Split) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    reply = await asked(split.client.http, output_config=wanted, max_tokens=100)
    assert json.loads(reply["content"][0]["text"])["n"] in (1, 2)
    assert reply["stop_reason"] == "end_turn"


WRONG: list[tuple[Any, str, str]] = [
    ({"zzz": 1}, "zzz", "invalid_value"),
    ({"messages": [{"role": "user", "content": "x " * 2000}]}, "messages", "context_length_exceeded"),
    ({"top_p": 2}, "top_p", "invalid_value"),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    ({"tools": [TOOL | {"input_schema": {"type": "array"}}]}, "tools.0.input_schema", "invalid_value"),
    ({"tool_choice": {"type": "any"}}, "tool_choice", "invalid_value"),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"uniqueItems": True}}}},
        "output_config.format.schema.uniqueItems",
        "invalid_value",
    ),
]


async def test_an_error_names_the_field_of_this_api(split: Split) -> None:
    for fields, param, code in WRONG:
        error = await refused(split.client.http, 400, **fields)
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert split.trunk.open_sessions == 0


async def test_every_error_has_the_envelope_of_anthropic(split: Split) -> None:
    http = split.client.http
    assert (await refused(http, 404, model="another"))["type"] == "not_found_error"
    assert (await refused(http, 404, "/v1/messages/batches"))["type"] == "not_found_error"
    assert (await refused(http, 413, messages=[5] * 60_000))["type"] == "request_too_large"
    assert (await refused(http, 400, messages=[5] * 40_000))["param"] == "messages.0"
    assert (await refused(http, 400, "/v1/messages/count_tokens"))["param"] == "temperature"
    broken = await http.post("/v1/messages", content=b"{")
    assert (broken.status_code, broken.json()["type"], broken.json()["error"]["code"]) == (400, "error", "invalid_json")
    wrong_method = await http.get("/v1/messages")
    assert (wrong_method.status_code, wrong_method.json()["type"]) == (405, "error")
    await split.trunk.server.stop(0)
    await until(lambda: not split.client.is_ready)
    for stream in (False, True):
        assert (await refused(http, 503, stream=stream))["type"] == "overloaded_error"
    assert split.client.value("refusals_total", code="model_not_found", tenant="") == 1


async def test_a_key_may_come_in_the_header_of_anthropics_clients(tiny_weights: Path, tmp_path: Path) -> None:
    key = "the-key-of-alice-0123456789"
    (tmp_path / "tenants.toml").write_text(f'[alice]\nkeys = ["{key}"]\nrpm_limit = 3\n')
    async with running_split(tiny_weights, tenants=tmp_path / "tenants.toml") as split:
        http = split.client.http
        assert (await refused(http, 401))["type"] == "authentication_error"
        http.headers["x-api-key"] = "the-key-of-nobody-0123456789"
        assert (await refused(http, 401))["code"] == "invalid_api_key"
        http.headers["x-api-key"] = key
        assert (await http.get("/v1/models")).status_code == 200
        for _ in range(3):
            await asked(http)
        assert (await refused(http, 429))["type"] == "rate_limit_error"
        assert split.client.value("tenant_tokens_total", tenant="alice", kind="generation") == 36


async def test_leaving_in_the_middle_of_a_stream_frees_the_session(split: Split) -> None:
    body = {**GREEDY, "max_tokens": 450, "stream": True}
    async with split.client.http.stream("POST", "/v1/messages", json=body) as response:
        lines = response.aiter_lines()
        while "content_block_delta" not in await anext(lines):
            pass
        assert split.trunk.open_sessions == 1
    await until(lambda: split.trunk.open_sessions == 0)
    assert split.client.value("request_success_total", finished_reason="abort") == 1


async def test_a_failure_in_the_middle_of_a_stream_is_an_event_of_an_error(tiny_weights: Path) -> None:
    async with running_split(tiny_weights, failover_timeout=0.0) as split:
        body = {**GREEDY, "max_tokens": 450, "stream": True}
        async with split.client.http.stream("POST", "/v1/messages", json=body) as response:
            lines = response.aiter_lines()
            while "content_block_delta" not in await anext(lines):
                pass
            await split.trunk.server.stop(0)
            rest = [line async for line in lines if line]
    assert rest[-2] == "event: error"
    last = json.loads(rest[-1].removeprefix("data: "))
    assert (last["type"], last["error"]["type"], last["error"]["code"]) == ("error", "api_error", "trunk_failed")


# --- scripted outputs ------------------------------------------------------------------------------------------------


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path, FAMILIES["hermes"]) as running:
        yield running


async def test_a_tool_is_called_and_its_result_goes_on(stage: Stage) -> None:
    stage.script.text = f"<think>\nwhy?\n</think>\nSo.\n{CALL}"
    given: dict[str, Any] = {"tools": [TOOL], "max_tokens": 500}
    first = await asked(stage.http, **given)
    thinking, text, call = first["content"]
    assert (thinking["thinking"], text["text"], call["input"]) == ("why?", "So.", {"a": 1})
    assert first["stop_reason"] == "tool_use"
    stage.script.text = "Five."
    results = [{"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "5"}]}]
    turns = [QUESTION, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": results}]
    assert (await asked(stage.http, **given, messages=turns))["content"] == [{"type": "text", "text": "Five."}]
    plain_call = {"id": call["id"], "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    told = {"role": "assistant", "content": "So.", "reasoning_content": "why?", "tool_calls": [plain_call]}
    tool = {"role": "tool", "tool_call_id": call["id"], "content": "5"}
    await stage.asked("Five.", messages=[QUESTION, told, tool])
    one, other = (sent.prompt for sent in stage.script.asked[-2:])
    assert one == other


async def test_a_stream_has_the_blocks_of_the_whole_message(stage: Stage) -> None:
    stage.script.text = f"<think>\nwhy?\n</think>\nSo.\n{CALL}"
    events = await events_of(stage.http, tools=[TOOL], max_tokens=500)
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    pieces = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    joined = "".join(each.get("partial_json", "") for each in pieces)
    assert json.loads(joined) == {"a": 1}
    assert "".join(each.get("thinking", "") for each in pieces) == "why?"
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_half_of_a_surrogate_pair_that_the_model_wrote_stays_as_it_wrote_it(stage: Stage) -> None:
    stage.script.text = CALL.replace("1", '"\\ud83d"')
    reply = await stage.http.post("/v1/messages", json={**GREEDY, "tools": [TOOL], "max_tokens": 500})
    assert reply.status_code == 200, reply.text
    assert '"input":{"a":"\\ud83d"}' in reply.text
