"""Structured output as the openai package, langchain-openai and pydantic-ai ask for it."""

import json
import os
from typing import Literal

import openai
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Verdict(BaseModel):
    """What the model has to fill in."""

    colour: Literal["red", "green"]
    certain: bool


url = os.environ["URL"] + "/v1"
hello = [{"role": "user", "content": "hello"}]
client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
parsed = client.chat.completions.parse(model="tiny", messages=hello, response_format=Verdict, temperature=0)
chat = ChatOpenAI(base_url=url, api_key="none", model="tiny", temperature=0)
filled = chat.with_structured_output(Verdict, method="json_schema").invoke("hello")
model = OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=url, api_key="none"))
agent = Agent(model, output_type=NativeOutput(Verdict), model_settings={"temperature": 0})
ran = agent.run_sync("hello").output
found = [parsed.choices[0].message.parsed, filled, ran]
print(
    json.dumps([[type(each).__name__, each.colour in ("red", "green"), type(each.certain).__name__] for each in found])
)
