"""An agent's loop with the openai package: the model's calls are run, and it is asked again with their results."""

import json
import os
from typing import Any

import openai
from openai.types.chat import (
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)

QUESTIONS: list[list[str]] = json.loads(os.environ["QUESTIONS"])
RESULTS: dict[str, dict[str, Any]] = json.loads(os.environ["RESULTS"])
MOST_TURNS = 4
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
        },
    }
    for name, description, argument in (
        ("get_weather", "The weather in a city now.", "city"),
        ("track_parcel", "Where a parcel is now.", "number"),
    )
]
client = openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", max_retries=0)


def whole(messages: list[ChatCompletionMessageParam]) -> ChatCompletionMessageParam:
    reply = client.chat.completions.create(
        model="tiny", messages=messages, tools=TOOLS, tool_choice="auto", temperature=0
    )
    assert reply.choices[0].finish_reason == ("tool_calls" if reply.choices[0].message.tool_calls else "stop")
    # the package takes the message itself, too
    return reply.choices[0].message  # type: ignore[return-value]


def streamed(messages: list[ChatCompletionMessageParam]) -> ChatCompletionMessageParam:
    """The message that the chunks make."""
    content, calls = "", list[ChatCompletionMessageFunctionToolCallParam]()
    chunks = client.chat.completions.create(
        model="tiny", messages=messages, tools=TOOLS, tool_choice="auto", temperature=0, stream=True
    )
    for chunk in chunks:
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for piece in delta.tool_calls or []:
            if piece.index == len(calls):
                calls.append(
                    {"id": piece.id, "type": "function", "function": {"name": piece.function.name, "arguments": ""}}
                )
            calls[piece.index]["function"]["arguments"] += piece.function.arguments or ""
    return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}


def answered(questions: list[str], ask: Any) -> dict[str, Any]:
    """The answers of one conversation, and the calls before each."""
    messages: list[ChatCompletionMessageParam] = []
    answers, called = list[str](), list[list[Any]]()
    for question in questions:
        messages.append({"role": "user", "content": question})
        called.append([])
        for _ in range(MOST_TURNS):
            reply = ask(messages)
            messages.append(reply)
            plain = reply if isinstance(reply, dict) else reply.to_dict()
            if not plain.get("tool_calls"):
                answers.append(plain["content"])
                break
            for call in plain["tool_calls"]:
                name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
                called[-1].append([name, arguments])
                (argument,) = arguments.values()
                result = json.dumps(RESULTS[name][argument])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return {"answers": answers, "called": called}


print(json.dumps([[answered(each, ask) for each in QUESTIONS] for ask in (whole, streamed)]))
