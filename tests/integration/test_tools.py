"""Calls of tools over a real trunk, with random weights: what a grammar makes of them, whatever the model would say."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.running_split import Split, running_split
from support.tool_templates import FAMILIES, family_weights

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Bern", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
USER = {"role": "user", "content": "What is the weather in Bern?"}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module", params=list(FAMILIES))
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_weights(tmp_path_factory.mktemp("family"), FAMILIES[request.param])


# what does not depend on the form; each family's is in the tests of parsing
FEW = pytest.mark.parametrize("weights", ["hermes", "harmony"], indirect=True)


@pytest.fixture
async def family(weights: Path) -> AsyncIterator[Split]:
    async with running_split(weights) as running:
        yield running


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [USER], "tools": TOOLS, "max_tokens": 120, "temperature": 1, **fields}


async def asked(split: Split, **fields: Any) -> dict[str, Any]:
    reply = await split.client.http.post("/v1/chat/completions", json=body(**fields))
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


async def refused(split: Split, **fields: Any) -> dict[str, Any]:
    reply = await split.client.http.post("/v1/chat/completions", json=body(**fields))
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


def is_valid(call: dict[str, Any]) -> bool:
    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    if name == "clock":
        return bool(arguments == {})
    return (
        name == "get_weather"
        and list(arguments) == ["city", "days"]
        and arguments["city"] in ("Bern", "Rome")
        and type(arguments["days"]) is int
        and 1 <= arguments["days"] <= 14
    )


def unlikely(split: Split) -> dict[str, int]:
    """Biases against white space and reasoning, of which random weights find no end."""
    tokenizer = split.client.service.tokenizer
    named = [token for name, token in tokenizer.hidden().items() if name in ("<|channel>", "[THINK]")]
    # harmony's analysis begins with the second one
    begins = (" ", "\n", "\r", "\t", "a")
    texts = [token for token in range(291) if tokenizer.vocabulary.text(token).startswith(begins)]
    return dict.fromkeys(map(str, [*named, *texts]), -100)


async def calls_of(split: Split, **fields: Any) -> list[dict[str, Any]]:
    biases = {"logit_bias": unlikely(split), "chat_template_kwargs": {"enable_thinking": False}}
    choice = await asked(split, **biases, **fields)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls: list[dict[str, Any]] = choice["message"]["tool_calls"]
    return calls


async def test_an_answer_that_must_call_a_tool_calls_it_with_arguments_that_follow_its_schema(family: Split) -> None:
    for seed in range(2):
        # random weights would go on calling
        one = await calls_of(family, tool_choice="required", parallel_tool_calls=False, seed=seed)
        named = await calls_of(family, tool_choice=NAMED, seed=seed)
        assert all(map(is_valid, [*one, *named]))
        assert len(one) == 1
        assert [call["function"]["name"] for call in named] == ["get_weather"]


@FEW
async def test_a_stream_has_the_calls_of_the_whole_reply(family: Split) -> None:
    fields = {"tool_choice": NAMED, "seed": 1, "logprobs": True, "top_logprobs": 1}
    whole = await asked(family, **fields)
    stream = await family.client.openai.chat.completions.create(
        **body(**fields), stream=True, stream_options={"include_usage": True}
    )
    calls, reasoning, tokens, finish, spent = {}, "", [], None, None
    async for chunk in stream:
        spent = chunk.usage or spent
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            tokens += choice.logprobs.content if choice.logprobs else []
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                if call.id is not None:
                    assert (call.type, call.function.arguments) == ("function", "")
                    calls[call.index] = {"name": call.function.name, "arguments": ""}
                else:
                    calls[call.index]["arguments"] += call.function.arguments
    assert list(calls.values()) == [call["function"] for call in whole["message"].get("tool_calls", [])]
    assert reasoning == whole["message"].get("reasoning_content", "")
    assert finish == whole["finish_reason"]
    assert [each.token for each in tokens] == [each["token"] for each in whole["logprobs"]["content"]]
    assert spent is not None
    assert spent.completion_tokens >= len([each for each in tokens if each.token])


@FEW
async def test_a_conversation_with_calls_and_their_results_is_rendered(family: Split) -> None:
    call = {"id": "abcdefghi", "type": "function"}
    call["function"] = {"name": "get_weather", "arguments": '{"city": "Bern", "days": 2}'}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"},
    ]
    reply = await family.client.http.post("/tokenize", json={"messages": messages, "tools": TOOLS})
    assert reply.status_code == 200, reply.text
    text = (await family.client.http.post("/detokenize", json={"tokens": reply.json()["tokens"]})).json()["prompt"]
    assert "get_weather" in text.partition("Bern?")[2]
    assert "sunny" in text
    # as an object, or as text where the template takes that
    assert "{'city'" not in text
    assert '\\"city' not in text
    assert "Bern" in text.partition("get_weather")[2]


@FEW
async def test_a_schema_that_cannot_be_followed_is_refused_with_its_place(family: Split) -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tools = [CLOCK, {"type": "function", "function": {"name": "f", "parameters": wrong}}]
    error = await refused(family, tools=tools, tool_choice="required")
    assert error["param"] == "tools.1.function.parameters.properties.a.uniqueItems"


@FEW
async def test_a_strict_tool_leaves_the_choice_to_the_model_and_its_arguments_to_the_schema(family: Split) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    choice = await asked(family, tools=[strict], seed=0, max_tokens=60)
    assert choice["finish_reason"] == "length" or all(map(is_valid, choice["message"].get("tool_calls", [])))


@pytest.mark.parametrize("weights", ["mistral named", "gemma", "hermes", "harmony"], indirect=True)
async def test_what_an_answer_has_to_follow_is_its_content_and_not_its_reasoning(family: Split) -> None:
    word = {"tools": None, "structured_outputs": {"choice": ["yes", "no"]}}
    # hermes and harmony write theirs as text here, to which random weights find no end
    biases = dict.fromkeys(map(str, _reasoning_tokens(family)), 100) or unlikely(family)
    choice = await asked(family, logit_bias=biases, chat_template_kwargs={"enable_thinking": False}, **word)
    assert (choice["message"]["content"] in ("yes", "no"), choice["finish_reason"]) == (True, "stop")


@pytest.mark.parametrize("weights", ["hermes"], indirect=True)
async def test_reasoning_that_the_prompt_begins_is_not_in_the_form_of_the_answer(family: Split) -> None:
    word = {"tools": None, "structured_outputs": {"choice": ["yes", "no"]}, "max_tokens": 20}
    choice = await asked(family, chat_template_kwargs={"open_thinking": True}, seed=1, **word)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["reasoning_content"] not in ("yes", "no")


@pytest.mark.parametrize("weights", ["hermes"], indirect=True)
async def test_an_answer_calls_a_tool_or_is_in_the_form_that_is_asked_for(family: Split) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    strict = [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]
    kinds = set()
    for seed in range(8):
        rest = {"logit_bias": unlikely(family), "seed": seed, "parallel_tool_calls": False}
        choice = await asked(family, tools=strict, response_format=form, **rest)
        message = choice["message"]
        kinds.add(choice["finish_reason"])
        if choice["finish_reason"] == "tool_calls":
            assert all(map(is_valid, message["tool_calls"]))
        elif choice["finish_reason"] == "stop":
            assert json.loads(message["content"]) in ({"ok": True}, {"ok": False})
    assert kinds == {"stop", "tool_calls"}


def _reasoning_tokens(split: Split) -> list[int]:
    hidden = split.client.service.tokenizer.hidden()
    return [hidden[name] for name in ("[THINK]", "[/THINK]", "<|channel>", "<channel|>") if name in hidden]
