"""What becomes of an output in each family's form, over the service's own routes; a script stands in for the model."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from splitlearn_client.parsing.dialect import dialect_of
from support.staged_service import TOOL, Stage, staged
from support.tiny_models import TEMPLATE
from support.tool_templates import FAMILIES, HERMES, Family

ARGUMENTS = '{"s": "1 < 2", "n": [1, 2]}'
CALLS = {
    "hermes": f'So.\n<tool_call>\n{{"name": "f", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "llama3": f'{{"name": "f", "parameters": {ARGUMENTS}}}',
    "mistral": f'So.[TOOL_CALLS][{{"name": "f", "arguments": {ARGUMENTS}}}]',
    "mistral named": f"So.[TOOL_CALLS]f[ARGS]{ARGUMENTS}",
    "gemma": 'So.<|tool_call>call:f{s:<|"|>1 < 2<|"|>,n:[1,2]}<tool_call|>',
    "function gemma": "So.<start_function_call>call:f{s:<escape>1 < 2<escape>,n:[1,2]}<end_function_call>",
    "harmony": "<|channel|>analysis<|message|>why?<|end|><|start|>assistant<|channel|>commentary<|message|>So.<|end|>"
    f"<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{ARGUMENTS}",
    "deepseek": "So.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek blocks": "So.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
    f"{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def hermes(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path, HERMES) as stage:
        yield stage


@pytest.fixture
async def stage(family: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path, FAMILIES[family]) as running:
        yield running


async def test_a_call_in_the_familys_form_is_a_call_of_the_message(family: str, stage: Stage) -> None:
    [choice] = (await stage.asked(CALLS[family]))["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "f")
    assert json.loads(call["function"]["arguments"]) == json.loads(ARGUMENTS)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == (None if family == "llama3" else "So.")
    assert choice["message"].get("reasoning_content") == ("why?" if family == "harmony" else None)
    if family.startswith("mistral"):
        # its template takes no other ids
        assert len(call["id"]) == 9


async def test_a_stream_has_the_arguments_piece_by_piece_behind_the_name(family: str, stage: Stage) -> None:
    chunks = [chunk.choices[0] for chunk in await stage.streamed(CALLS[family])]
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert (calls[0].index, calls[0].type, calls[0].function.name) == (0, "function", "f")
    assert calls[0].id
    assert calls[0].function.arguments == ""
    assert len(calls) > 4
    assert all(call.id is None and call.function.name is None for call in calls[1:])
    assert json.loads("".join(call.function.arguments for call in calls)) == json.loads(ARGUMENTS)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]
    assert chunks[-1].finish_reason == "tool_calls"
    content = "".join(chunk.delta.content or "" for chunk in chunks)
    assert content == ("" if family == "llama3" else "So.")
    assert chunks[0].delta.role == "assistant"


async def test_reasoning_is_apart_from_content_whole_and_streamed_with_tools_and_without(hermes: Stage) -> None:
    text = "<think>\nwhy?\n</think>\n\nSo."
    for tools in ({}, {"tools": []}, {"tool_choice": "none"}):
        message = (await hermes.asked(text, **tools))["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "So.", "reasoning_content": "why?"}
        deltas = [chunk.choices[0].delta for chunk in await hermes.streamed(text, **tools)]
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "why?"
        assert "".join(delta.content or "" for delta in deltas) == "So."


async def test_an_answer_behind_a_prompt_that_opens_reasoning_begins_with_it(hermes: Stage) -> None:
    opened = {"chat_template_kwargs": {"open_thinking": True}}
    message = (await hermes.asked("why?\n</think>\n\nSo.", **opened))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("So.", "why?")
    prefill = {"role": "assistant", "content": "<think>\nwell"}
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    messages = [{"role": "user", "content": "hi"}, prefill]
    message = (await hermes.asked(", why?\n</think>So.", messages=messages, **goes_on))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("So.", ", why?")


@pytest.mark.parametrize("text", ["<tool_call>{oops}</tool_call> after", '<tool_call>{"name": "g"}</tool_call>'])
async def test_what_is_no_call_is_content_in_a_stream_too(hermes: Stage, text: str) -> None:
    choice = (await hermes.asked(text))["choices"][0]
    assert (choice["message"], choice["finish_reason"]) == ({"role": "assistant", "content": text}, "stop")
    chunks = [chunk.choices[0] for chunk in await hermes.streamed(text)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == text
    assert chunks[-1].finish_reason == "stop"


async def test_with_tool_choice_none_calls_are_content_and_no_tool_is_told_of(hermes: Stage) -> None:
    choice = (await hermes.asked(CALLS["hermes"], tool_choice="none"))["choices"][0]
    assert choice["message"]["content"] == CALLS["hermes"]
    assert "Tools" not in hermes.tokenizer.decode(hermes.script.asked[-1].prompt)
    await hermes.asked(CALLS["hermes"])
    assert "Tools" in hermes.tokenizer.decode(hermes.script.asked[-1].prompt)


async def test_an_answer_cut_off_within_a_call_says_length_and_has_the_beginning(hermes: Stage) -> None:
    text = CALLS["hermes"].removeprefix("So.\n")
    ids = await hermes.tokenizer.tokenize(text, bare=True)
    most = len(ids) - len(await hermes.tokenizer.tokenize("[1, 2]}}\n</tool_call>", bare=True))
    choice = (await hermes.asked(text, max_tokens=most))["choices"][0]
    assert choice["finish_reason"] == "length"
    [call] = choice["message"]["tool_calls"]
    assert ARGUMENTS.startswith(call["function"]["arguments"])


async def test_stop_strings_logprobs_usage_and_several_answers_are_right_with_calls(hermes: Stage) -> None:
    text = f"So.{CALLS['hermes'].removeprefix('So.')} and more"
    stopped = (await hermes.asked(text, stop=" and"))["choices"][0]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("tool_calls", " and")
    whole = await hermes.asked(text, n=2, logprobs=True)
    for choice in whole["choices"]:
        assert "".join(each["token"] for each in choice["logprobs"]["content"]) == text
        assert choice["message"]["content"] == "So.and more"
        assert len(choice["message"]["tool_calls"]) == 1
    n_tokens = len(await hermes.tokenizer.tokenize(text, bare=True)) + 1
    assert whole["usage"]["completion_tokens"] == 2 * n_tokens
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in whole["choices"]}) == 2
    chunks = await hermes.streamed(text, n=2, logprobs=True)
    for number in range(2):
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == number]
        tokens = [each.token for choice in choices if choice.logprobs for each in choice.logprobs.content]
        assert "".join(tokens) == text


async def test_a_model_without_a_known_form_has_no_tools_and_its_text_is_untouched(tmp_path: Path) -> None:
    async with staged(tmp_path, Family(TEMPLATE)) as stage:
        error = await stage.http.post(
            "/v1/chat/completions",
            json={"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]},
        )
        assert (error.status_code, error.json()["error"]["param"]) == (400, "tools")
        assert "leaves this tool out" in error.json()["error"]["message"]
        text = f"<think>{CALLS['hermes']}</think>"
        assert (await stage.asked(text, tools=[]))["choices"][0]["message"] == {"role": "assistant", "content": text}


async def test_tools_of_a_model_whose_form_is_not_known_are_refused(tmp_path: Path) -> None:
    told = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    async with staged(tmp_path, Family(told + TEMPLATE)) as stage:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
        error = (await stage.http.post("/v1/chat/completions", json=body)).json()["error"]
        assert (error["param"], "--tool-call-parser" in error["message"]) == ("tools", True)


async def test_a_tool_whose_schema_cannot_be_read_is_refused_by_its_place(hermes: Stage) -> None:
    tool = {"type": "function", "function": {"name": "g", "parameters": {"$ref": "http://[x#/a"}}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL, tool]}
    reply = await hermes.http.post("/v1/chat/completions", json={**body, "tool_choice": "required"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools.1.function.parameters.$ref")


async def test_a_setting_names_the_form_that_a_template_does_not_show(tmp_path: Path) -> None:
    told = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    async with staged(tmp_path, Family(told + TEMPLATE), dialect_of("", {}, "hermes", "none")) as stage:
        message = (await stage.asked(f"<think>{CALLS['hermes']}"))["choices"][0]["message"]
        assert message["tool_calls"][0]["function"]["name"] == "f"
        assert message["content"] == "<think>So."


async def test_a_template_that_cannot_render_a_tool_says_why(tmp_path: Path) -> None:
    picky = "{% for tool in tools or [] %}{{ raise_exception('no tools today') }}{% endfor %}"
    async with staged(tmp_path, Family(picky + HERMES.template, HERMES.tokens)) as stage:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
        error = (await stage.http.post("/v1/chat/completions", json=body)).json()["error"]
        assert (error["param"], "no tools today" in error["message"]) == ("tools", True)
