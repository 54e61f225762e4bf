"""The Responses API through the `openai` package: over a real trunk, and over scripted outputs of a family's form."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import NotFoundError

from support.running_split import Split, running_split, until
from support.staged_service import Stage, staged
from support.tool_templates import FAMILIES

QUESTION = "who jumps?"
TOOL: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_output_tokens": 12}


async def chat(split: Split, messages: list[Any]) -> str:
    reply = await split.client.openai.chat.completions.create(
        model="tiny", temperature=0, max_tokens=12, messages=messages
    )
    return str(reply.choices[0].message.content)


async def refused(http: httpx.AsyncClient, status: int, **fields: Any) -> dict[str, Any]:
    reply = await http.post("/v1/responses", json={**GREEDY, "input": QUESTION, **fields})
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


async def test_an_answer_is_that_of_a_chat_whole_and_streamed(split: Split) -> None:
    api = split.client.openai.responses
    text = await chat(split, [{"role": "user", "content": QUESTION}])
    whole = await api.create(**GREEDY, input=QUESTION)
    assert whole.output_text == text
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (whole.usage.output_tokens, whole.model, whole.temperature) == (12, "tiny", 0.0)
    events: list[Any] = [event async for event in await api.create(**GREEDY, input=QUESTION, stream=True)]
    streamed = events[-1].response
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert streamed.output_text == text
    assert streamed.usage.input_tokens == whole.usage.input_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.5, "seed": 7, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.2},
        {"frequency_penalty": 1, "presence_penalty": 0.5, "logit_bias": {"5": 90, "6": 91}},
        {"stop": [" "], "include_stop_str_in_output": True, "min_tokens": 2},
        {"ignore_eos": True, "stop_token_ids": [5], "logit_bias": {"5": 100}, "top_k": -1},
    ],
)
async def test_the_fields_that_choose_tokens_and_end_answers_are_those_of_chats(
    split: Split, fields: dict[str, Any]
) -> None:
    http = split.client.http
    common: dict[str, Any] = {"model": "tiny", "temperature": 0, **fields}
    messages = [{"role": "user", "content": QUESTION}]
    chatted = await http.post("/v1/chat/completions", json={**common, "max_tokens": 12, "messages": messages})
    plain = await http.post("/v1/responses", json={**GREEDY, "input": QUESTION})
    reply = await http.post("/v1/responses", json={**common, "max_output_tokens": 12, "input": QUESTION})
    (text,) = [part["text"] for item in reply.json()["output"] for part in item["content"]] or [""]
    assert text == chatted.json()["choices"][0]["message"]["content"]
    assert reply.json()["usage"]["output_tokens"] == chatted.json()["usage"]["completion_tokens"]
    assert reply.json()["output"] != plain.json()["output"]


async def test_a_conversation_goes_on_with_an_earlier_response(split: Split) -> None:
    api = split.client.openai.responses
    first = await api.create(**GREEDY, input=QUESTION)
    second = await api.create(**GREEDY, input="and?", previous_response_id=first.id)
    messages: list[Any] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "and?"},
    ]
    assert second.output_text == await chat(split, messages)
    messages += [{"role": "assistant", "content": second.output_text}, {"role": "user", "content": "so?"}]
    items: Any = messages
    third = await api.create(**GREEDY, input="so?", previous_response_id=second.id)
    assert third.output_text == await chat(split, messages)
    assert third.previous_response_id == second.id
    assert (await api.create(**GREEDY, input=items)).output_text == third.output_text


async def test_instructions_are_the_system_message_of_their_request_alone(split: Split) -> None:
    api = split.client.openai.responses
    first = await api.create(**GREEDY, input=QUESTION, instructions="be brief")
    system = {"role": "system", "content": "be brief"}
    assert first.output_text == await chat(split, [system, {"role": "user", "content": QUESTION}])
    second = await api.create(**GREEDY, input="and?", previous_response_id=first.id)
    later = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "and?"},
    ]
    assert second.output_text == await chat(split, later)


async def test_a_response_is_kept_until_it_is_deleted(split: Split) -> None:
    api = split.client.openai.responses
    made = await api.create(**GREEDY, input=QUESTION, metadata={"a": "b"})
    assert (await api.retrieve(made.id)).model_dump() == made.model_dump()
    await api.delete(made.id)
    for again in (api.retrieve(made.id), api.delete(made.id)):
        with pytest.raises(NotFoundError) as gone:
            await again
        assert gone.value.code == "response_not_found"
    error = await refused(split.client.http, 404, previous_response_id=made.id)
    assert (error["code"], error["param"]) == ("response_not_found", "previous_response_id")
    assert "send the whole conversation" in error["message"]


async def test_what_is_not_to_be_stored_is_not(split: Split) -> None:
    made = await split.client.openai.responses.create(**GREEDY, input=QUESTION, store=False)
    assert await refused(split.client.http, 404, previous_response_id=made.id)
    assert split.client.service.responses.n_bytes == 0


async def test_the_oldest_make_room_under_the_bound(tiny_weights: Path) -> None:
    async with running_split(tiny_weights, response_store_bytes=10_000) as split:
        api = split.client.openai.responses
        made = [(await api.create(**GREEDY, input=QUESTION)).id for _ in range(8)]
        text = (await split.client.http.get("/metrics")).text
        told = next(line for line in text.splitlines() if line.startswith("splitlearn_client_response_store_bytes "))
        assert 0 < float(told.split()[1]) <= 10_000
        assert await refused(split.client.http, 404, previous_response_id=made[0])
        assert (await api.create(**GREEDY, input="and?", previous_response_id=made[-1])).output_text
    async with running_split(tiny_weights, response_store_bytes=0) as split:
        lone = await split.client.openai.responses.create(**GREEDY, input=QUESTION)
        assert (await split.client.http.get(f"/v1/responses/{lone.id}")).status_code == 404
        assert lone.model_dump()["store"] is False


async def test_one_tenant_never_reads_what_another_keeps(tiny_weights: Path, tmp_path: Path) -> None:
    keys = {name: f"the-key-of-{name}-0123456789" for name in ("alice", "bob")}
    file = tmp_path / "tenants.toml"
    file.write_text("".join(f'[{name}]\nkeys = ["{key}"]\n' for name, key in keys.items()))
    async with running_split(tiny_weights, tenants=file) as split:
        alice, bob = (split.client.openai.with_options(api_key=key).responses for key in keys.values())
        secret = await alice.create(**GREEDY, input=QUESTION)
        for attempt in (
            bob.retrieve(secret.id),
            bob.delete(secret.id),
            bob.create(**GREEDY, input="and?", previous_response_id=secret.id),
        ):
            with pytest.raises(NotFoundError) as refusal:
                await attempt
            assert refusal.value.code == "response_not_found"
        assert (await split.client.http.get(f"/v1/responses/{secret.id}")).status_code == 401
        assert (await alice.create(**GREEDY, input="and?", previous_response_id=secret.id)).output_text
        assert split.client.value("tenant_requests_total", tenant="alice") == 2
        assert split.client.value("tenant_tokens_total", tenant="alice", kind="generation") == 24


async def test_an_answer_follows_a_schema(split: Split) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    text: Any = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    reply = await split.client.openai.responses.create(model="tiny", input=QUESTION, text=text)
    assert json.loads(reply.output_text)["n"] in (1, 2)
    assert reply.status == "completed"
    assert reply.text.model_dump(by_alias=True)["format"]["schema"] == schema


async def test_a_text_has_the_log_probabilities_of_a_chat_if_they_are_included(split: Split) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked: dict[str, Any] = {**GREEDY, "input": QUESTION, "include": ["message.output_text.logprobs"]}
    for n in (None, 3):
        chatted = await split.client.openai.chat.completions.create(
            model="tiny", temperature=0, max_tokens=12, messages=messages, logprobs=True, top_logprobs=n
        )
        expected = [each.model_dump() for each in chatted.choices[0].logprobs.content]
        tops: Any = {} if n is None else {"top_logprobs": n}
        whole = await split.client.openai.responses.create(**asked, **tops)
        message: Any = whole.output[0]
        assert [each.model_dump() for each in message.content[0].logprobs] == expected
        assert whole.top_logprobs == (n or 0)
        events: list[Any] = [
            event async for event in await split.client.openai.responses.create(**asked, **tops, stream=True)
        ]
        deltas = [event for event in events if event.type == "response.output_text.delta"]
        assert [each.token for event in deltas for each in event.logprobs] == [each["token"] for each in expected]
        assert events[-1].response.output[0].content[0].logprobs == message.content[0].logprobs
    plain: Any = (await split.client.openai.responses.create(**GREEDY, input=QUESTION)).output[0]
    assert plain.content[0].logprobs == []


async def test_an_answer_follows_a_form_of_vllm(split: Split) -> None:
    more = {"structured_outputs": {"choice": ["yes", "no"]}}
    reply = await split.client.openai.responses.create(model="tiny", input=QUESTION, extra_body=more)
    assert (reply.output_text in ("yes", "no"), reply.status) == (True, "completed")


WRONG: list[tuple[Any, str, str]] = [
    ({"zzz": 1}, "zzz", "invalid_value"),
    ({"input": [{"role": "user", "content": "x " * 2000}]}, "input", "context_length_exceeded"),
    ({"top_p": 2}, "top_p", "invalid_value"),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    ({"tools": [TOOL | {"parameters": {"type": "array"}}]}, "tools.0.parameters", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"uniqueItems": True}}}},
        "text.format.schema.uniqueItems",
        "invalid_value",
    ),
    ({"text": {"format": {"type": "json_schema", "name": "", "schema": {}}}}, "text.format.name", "invalid_value"),
    ({"structured_outputs": {"json": {"uniqueItems": True}}}, "structured_outputs.json.uniqueItems", "invalid_value"),
    ({"allowed_token_ids": [99_999]}, "allowed_token_ids", "invalid_value"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "invalid_value"),
]


async def test_an_error_names_the_field_of_this_api(split: Split) -> None:
    for fields, param, code in WRONG:
        error = await refused(split.client.http, 400, **fields)
        assert (error["param"], error["code"]) == (param, code)
    assert split.trunk.open_sessions == 0


async def test_hostile_bodies_are_refused_before_any_work(split: Split) -> None:
    deep: Any = "x"
    for _ in range(120):
        deep = [deep]
    wrong = {"role": "user", "content": [[["x"]]]}
    assert (await refused(split.client.http, 400, input=deep))["code"] == "invalid_json"
    assert (await refused(split.client.http, 400, input=[wrong]))["param"] == "input.0.content.0"
    assert (await refused(split.client.http, 413, input=[{}] * 60_000))["code"] == "request_too_large"
    assert (await refused(split.client.http, 400, input=[5] * 40_000))["param"] == "input.0"
    assert (await refused(split.client.http, 404, model="x" * 10_000))["code"] == "model_not_found"
    assert len((await refused(split.client.http, 404, previous_response_id="x" * 256))["message"]) < 400


async def test_leaving_in_the_middle_of_a_stream_frees_the_session(split: Split) -> None:
    body = {**GREEDY, "max_output_tokens": 450, "input": QUESTION, "stream": True}
    async with split.client.http.stream("POST", "/v1/responses", json=body) as response:
        lines = response.aiter_lines()
        while "output_text.delta" not in await anext(lines):
            pass
        assert split.trunk.open_sessions == 1
    await until(lambda: split.trunk.open_sessions == 0)
    assert split.client.value("request_success_total", finished_reason="abort") == 1
    assert split.client.service.responses.n_bytes == 0


async def test_a_failure_in_the_middle_of_a_stream_is_the_event_of_a_failed_response(tiny_weights: Path) -> None:
    async with running_split(tiny_weights, failover_timeout=0.0) as split:
        asking = await split.client.openai.responses.create(
            **GREEDY | {"max_output_tokens": 450}, input=QUESTION, stream=True
        )
        events = [await anext(asking)]
        await split.trunk.server.stop(0)
        events += [event async for event in asking]
    last: Any = events[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == "trunk_failed"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_an_error_before_the_first_token_has_a_status(split: Split) -> None:
    await split.trunk.server.stop(0)
    await until(lambda: not split.client.is_ready)
    assert (await refused(split.client.http, 503, stream=True))["code"] == "trunk_not_ready"


# --- scripted outputs --------------------------------------------------------------------------------------------


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path, FAMILIES["hermes"]) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_goes_on(stage: Stage, stream: bool) -> None:
    stage.script.text = f"<think>\nwhy?\n</think>\nSo.\n{CALL}"
    given: dict[str, Any] = {"model": "tiny", "tools": [TOOL]}
    if stream:
        async with stage.openai.responses.stream(**given, input="hi") as coming:
            first = await coming.get_final_response()
    else:
        first = await stage.openai.responses.create(**given, input="hi")
    reasoning, message, call = first.output
    assert (reasoning.content[0].text, message.content[0].text) == ("why?", "So.")
    assert (call.name, json.loads(call.arguments)) == ("f", {"a": 1})
    stage.script.text = "Five."
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    chained = await stage.openai.responses.create(**given, input=[result], previous_response_id=first.id)
    items: Any = [{"role": "user", "content": "hi"}, *(each.model_dump() for each in first.output), result]
    sent = await stage.openai.responses.create(**given, input=items, store=False)
    assert chained.output_text == sent.output_text == "Five."
    plain_call = {"id": call.call_id, "type": "function", "function": {"name": "f", "arguments": call.arguments}}
    told = {"role": "assistant", "content": "So.", "reasoning_content": "why?", "tool_calls": [plain_call]}
    tool = {"role": "tool", "tool_call_id": call.call_id, "content": "5"}
    await stage.asked("Five.", messages=[{"role": "user", "content": "hi"}, told, tool])
    one, two, three = (asked.prompt for asked in stage.script.asked[-3:])
    assert one == two == three


async def test_a_stream_and_a_whole_reply_have_the_same_items(stage: Stage) -> None:
    stage.script.text = f"<think>\nwhy?\n</think>\nSo.\n{CALL}\n{CALL}"

    given: dict[str, Any] = {"model": "tiny", "tools": [TOOL], "input": "hi"}
    whole = await stage.openai.responses.create(**given)
    events: list[Any] = [event async for event in await stage.openai.responses.create(**given, stream=True)]
    fresh = {"id", "call_id"}
    one, other = (
        [{name: value for name, value in item.items() if name not in fresh} for item in response.model_dump()["output"]]
        for response in (whole, events[-1].response)
    )
    assert one == other
    assert [item["type"] for item in one] == ["reasoning", "message", "function_call", "function_call"]
