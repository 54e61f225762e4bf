"""vLLM's fields about the tokens of a prompt and an answer: their ids, how many are used, and who shares their rows."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from transformers import PreTrainedModel

from support.running_split import Split
from support.tiny_models import tiny_tokenizer

PROMPT = [5, 9, 17, 33, 12]
LONG = list(range(5, 105))
TOKENIZER = tiny_tokenizer()
CHAT = [{"role": "user", "content": "who jumps?"}]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "ignore_eos": True}


async def asked(split: Split, path: str, **fields: Any) -> dict[str, Any]:
    reply = await split.client.http.post(path, json={**GREEDY, "max_tokens": 8, **fields})
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


async def streamed(split: Split, path: str, **fields: Any) -> AsyncIterator[dict[str, Any]]:
    body = {**GREEDY, "max_tokens": 8, "stream": True, **fields}
    async with split.client.http.stream("POST", path, json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


async def refused(split: Split, **fields: Any) -> dict[str, Any]:
    reply = await split.client.complete(**{"prompt": LONG, "max_tokens": 4, **fields})
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


async def test_the_ids_of_a_completion_are_those_of_its_prompt_and_its_text(split: Split) -> None:
    body = await asked(split, "/v1/completions", prompt=PROMPT, return_token_ids=True, n=2)
    for choice in body["choices"]:
        assert choice["prompt_token_ids"] == PROMPT
        assert len(choice["token_ids"]) == 8
        assert TOKENIZER.decode([*PROMPT, *choice["token_ids"]], skip_special_tokens=True).endswith(choice["text"])
    given: dict[str, Any] = {"prompt": PROMPT, "return_token_ids": True, "echo": True}
    choices = [chunk["choices"][0] async for chunk in streamed(split, "/v1/completions", **given)]
    assert [each.get("prompt_token_ids") for each in choices] == [PROMPT, *[None] * (len(choices) - 1)]
    assert [token for each in choices for token in each["token_ids"]] == body["choices"][0]["token_ids"]


async def test_the_ids_of_a_chat_are_those_of_its_rendered_prompt(split: Split) -> None:
    rendered = (await split.client.http.post("/tokenize", json={"messages": CHAT})).json()["tokens"]
    body = await asked(split, "/v1/chat/completions", messages=CHAT, return_token_ids=True)
    assert body["prompt_token_ids"] == rendered
    ids = body["choices"][0]["token_ids"]
    assert len(ids) == body["usage"]["completion_tokens"] == 8
    chunks = [c async for c in streamed(split, "/v1/chat/completions", messages=CHAT, return_token_ids=True)]
    assert [chunk.get("prompt_token_ids") for chunk in chunks] == [rendered, *[None] * (len(chunks) - 1)]
    assert [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]] == ids


async def test_the_end_token_is_among_the_ids(split: Split) -> None:
    ends = {"ignore_eos": False, "logit_bias": {"2": 100}}
    body = await asked(split, "/v1/completions", prompt=PROMPT, return_token_ids=True, **ends)
    assert (body["choices"][0]["token_ids"], body["choices"][0]["text"]) == ([2], "")


async def test_of_a_prompt_the_last_tokens_are_used(split: Split) -> None:
    ids: dict[str, Any] = {"return_token_ids": True}
    cut = await asked(split, "/v1/completions", prompt=LONG, truncate_prompt_tokens=7, **ids)
    assert cut["choices"][0]["prompt_token_ids"] == LONG[-7:]
    assert cut["usage"]["prompt_tokens"] == 7
    alone = await asked(split, "/v1/completions", prompt=LONG[-7:], **ids)
    assert cut["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]
    whole = await asked(split, "/v1/chat/completions", messages=CHAT, **ids)
    chat = await asked(split, "/v1/chat/completions", messages=CHAT, truncate_prompt_tokens=3, **ids)
    assert chat["prompt_token_ids"] == whole["prompt_token_ids"][-3:]
    more = await asked(split, "/v1/chat/completions", messages=CHAT, truncate_prompt_tokens=9999, **ids)
    assert more["prompt_token_ids"] == whole["prompt_token_ids"]


async def test_a_prompt_is_cut_to_what_leaves_room_for_the_answer(split: Split, tiny_llama: PreTrainedModel) -> None:
    context = tiny_llama.config.max_position_embeddings
    text = "z" * 5 * context
    fits: dict[str, Any] = {"truncate_prompt_tokens": -1, "return_token_ids": True}
    for prompt in (LONG * 20, text, [text, "fox"]):
        body = await asked(split, "/v1/completions", prompt=prompt, **fits)
        assert len(body["choices"][0]["prompt_token_ids"]) == context - 8
        assert len(body["choices"][0]["token_ids"]) == 8
    chat = await asked(split, "/v1/chat/completions", messages=[{"role": "user", "content": text}], **fits)
    assert len(chat["prompt_token_ids"]) == context - 8


async def test_a_cut_that_leaves_no_prompt_or_no_answer_is_refused_by_name(
    split: Split, tiny_llama: PreTrainedModel
) -> None:
    context = tiny_llama.config.max_position_embeddings
    assert (await refused(split, truncate_prompt_tokens=0))["param"] == "truncate_prompt_tokens"
    error = await refused(split, truncate_prompt_tokens=-1, max_tokens=context)
    assert (error["param"], "leaves no room" in error["message"]) == ("truncate_prompt_tokens", True)
    error = await refused(split, prompt=LONG * 20, truncate_prompt_tokens=context)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
async def test_cached_rows_are_shared_among_the_requests_of_one_salt(split: Split, path: str) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 8
    given: dict[str, Any] = {
        "/v1/completions": {"prompt": text, "max_tokens": 4},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": text}], "max_tokens": 4},
        "/v1/responses": {"input": text, "max_output_tokens": 4},
    }[path]

    async def cached(**salt: str) -> int:
        reply = await split.client.http.post(path, json={**GREEDY, **given, **salt})
        assert reply.status_code == 200, reply.text
        usage = reply.json()["usage"]
        return int((usage.get("prompt_tokens_details") or usage["input_tokens_details"])["cached_tokens"])

    salts: list[dict[str, str]] = [{}, {"cache_salt": "a"}, {"cache_salt": "b"}]
    assert [await cached(**salt) for salt in salts] == [0, 0, 0]
    assert all([await cached(**salt) > 0 for salt in salts])
