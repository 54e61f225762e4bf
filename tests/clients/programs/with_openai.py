"""The openai package: models, completions, chat, responses, streams, log-probabilities, embeddings and errors."""

import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", max_retries=0)
hello = [{"role": "user", "content": "hello"}]
greedy = {"model": "tiny", "temperature": 0, "max_tokens": 8}

chat = client.chat.completions.create(**greedy, messages=hello, logprobs=True, top_logprobs=2)
streamed = client.chat.completions.create(**greedy, messages=hello, stream=True, stream_options={"include_usage": True})
chunks = list(streamed)
several = client.completions.create(**greedy | {"temperature": 1}, prompt=["the", "quick"], n=2, seed=7)
# it asks for base64, and decodes it
embeddings = client.embeddings.create(model="tiny", input=["the", "quick brown"])
as_floats = client.embeddings.create(model="tiny", input=["the", "quick brown"], encoding_format="float")
asked = {"model": "tiny", "temperature": 0, "max_output_tokens": 8}
response = client.responses.create(**asked, input="hello")
kinds, told = [], ""
for event in client.responses.create(**asked, input=hello, instructions=None, stream=True):
    kinds += [] if kinds[-1:] == [event.type] else [event.type]
    told += event.delta if event.type == "response.output_text.delta" else ""
later = client.responses.create(**asked, input="and?", previous_response_id=response.id)
kept = client.responses.retrieve(later.id)
client.responses.delete(later.id)
try:
    client.responses.create(**asked, input="and?", previous_response_id=later.id)
    forgotten = ""
except openai.NotFoundError as error:
    forgotten = error.code
try:
    client.chat.completions.create(**greedy | {"model": "another"}, messages=hello)
    refused = ""
except openai.NotFoundError as error:
    refused = error.body["message"]
print(
    json.dumps(
        {
            "models": [model.id for model in client.models.list()],
            "text": chat.choices[0].message.content,
            "logprobs": len(chat.choices[0].logprobs.content),
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "usage": [chat.usage.completion_tokens, chunks[-1].usage.completion_tokens],
            "dimensions": [len(each.embedding) for each in embeddings.data],
            "same": [each.embedding for each in embeddings.data] == [each.embedding for each in as_floats.data],
            "indices": [choice.index for choice in several.choices],
            "refused": refused,
            "response": [response.output_text, response.usage.output_tokens, response.incomplete_details.reason],
            "told": [told, kinds],
            "chained": [later.output_text == kept.output_text, later.previous_response_id == response.id],
            "forgotten": forgotten,
        }
    )
)
