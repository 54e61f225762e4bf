"""litellm: an OpenAI-compatible service by `api_base`."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

where = {"api_base": os.environ["URL"] + "/v1", "api_key": "none", "temperature": 0, "max_tokens": 8}
hello = [{"role": "user", "content": "hello"}]
whole = litellm.completion("openai/tiny", hello, **where)
stream = litellm.completion("openai/tiny", hello, stream=True, **where)
plain = litellm.text_completion(prompt="the quick", model="text-completion-openai/tiny", **where)
try:
    litellm.completion("openai/another", hello, **where)
    refused = ""
except litellm.NotFoundError as error:
    refused = str(error)
print(
    json.dumps(
        {
            "text": whole.choices[0].message.content,
            "tokens": whole.usage.completion_tokens,
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in stream),
            "plain": plain.choices[0].text,
            "refused": refused,
        }
    )
)
