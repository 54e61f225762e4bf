"""pydantic-ai: an agent without tools, whole and as a stream."""

import asyncio
import json
import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=os.environ["URL"] + "/v1", api_key="none"))
agent = Agent(model, model_settings={"temperature": 0, "max_tokens": 8})


async def main() -> None:
    whole = await agent.run("hello")
    async with agent.run_stream("hello") as result:
        parts = [part async for part in result.stream_text(delta=True)]
    print(json.dumps({"text": whole.output, "streamed": "".join(parts)}))


asyncio.run(main())
