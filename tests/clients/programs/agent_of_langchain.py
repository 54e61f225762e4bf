"""An agent's loop with langchain-openai: `bind_tools`, tool messages, and the answer; whole and as a stream."""

import functools
import json
import operator
import os
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

QUESTIONS: list[list[str]] = json.loads(os.environ["QUESTIONS"])
RESULTS: dict[str, dict[str, Any]] = json.loads(os.environ["RESULTS"])
MOST_TURNS = 4


@tool
def get_weather(city: str) -> str:
    """The weather in a city now."""
    return json.dumps(RESULTS["get_weather"][city])


@tool
def track_parcel(number: str) -> str:
    """Where a parcel is now."""
    return json.dumps(RESULTS["track_parcel"][number])


tools = {each.name: each for each in (get_weather, track_parcel)}
model = ChatOpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", model="tiny", temperature=0, max_retries=0)
agent = model.bind_tools(list(tools.values()), tool_choice="auto")


def streamed(messages: list[BaseMessage]) -> AIMessage:
    return functools.reduce(operator.add, agent.stream(messages))


def answered(questions: list[str], ask: Any) -> dict[str, Any]:
    """The answers of one conversation, and the calls before each."""
    messages: list[BaseMessage] = []
    answers, called = list[str](), list[list[Any]]()
    for question in questions:
        messages.append(HumanMessage(question))
        called.append([])
        for _ in range(MOST_TURNS):
            reply = ask(messages)
            messages.append(reply)
            if not reply.tool_calls:
                answers.append(reply.content)
                break
            called[-1] += [[call["name"], call["args"]] for call in reply.tool_calls]
            messages += [tools[call["name"]].invoke(call) for call in reply.tool_calls]
    return {"answers": answers, "called": called}


print(json.dumps([[answered(each, ask) for each in QUESTIONS] for ask in (agent.invoke, streamed)]))
