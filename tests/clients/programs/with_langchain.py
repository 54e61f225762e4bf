"""langchain-openai: invoke, stream and batch, of chat and of plain completion."""

import json
import os

from langchain_openai import ChatOpenAI, OpenAI

where = {"base_url": os.environ["URL"] + "/v1", "api_key": "none", "model": "tiny", "temperature": 0, "max_tokens": 8}
chat, plain = ChatOpenAI(**where), OpenAI(**where)
whole = chat.invoke("hello")
print(
    json.dumps(
        {
            "text": whole.content,
            "tokens": whole.usage_metadata["output_tokens"],
            "streamed": "".join(chunk.content for chunk in chat.stream("hello")),
            "batch": [message.content for message in chat.batch(["hello", "hello"])],
            "plain": plain.invoke("the quick"),
            "plain_batch": plain.batch(["the quick", "the quick"]),
        }
    )
)
