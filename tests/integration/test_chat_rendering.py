"""How a conversation is rendered: fields of chats that vLLM has, over a real trunk."""

from typing import Any

import pytest
from openai import AsyncOpenAI

from support.running_split import Split
from support.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TURNS = [{"role": "user", "content": "who jumps?"}, {"role": "assistant", "content": "the quick"}]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 6}


async def test_an_answer_goes_on_with_the_assistants_own_words(split: Split) -> None:
    openai: AsyncOpenAI = split.client.openai
    more = {"add_generation_prompt": False, "continue_final_message": True}
    reply = await openai.chat.completions.create(messages=TURNS, extra_body=more, **GREEDY)  # type: ignore[arg-type]
    rendered = TOKENIZER.apply_chat_template(TURNS, tokenize=False, continue_final_message=True)
    expected = await openai.completions.create(prompt=TOKENIZER.encode(rendered, add_special_tokens=False), **GREEDY)
    assert reply.choices[0].message.content == expected.choices[0].text
    tokens = await split.client.http.post("/tokenize", json={"messages": TURNS, **more})
    assert tokens.json()["tokens"] == TOKENIZER.encode(rendered, add_special_tokens=False)


async def test_a_conversation_may_end_without_the_beginning_of_an_answer(split: Split) -> None:
    fields = {**GREEDY, "messages": TURNS, "add_generation_prompt": False}
    reply = await split.client.http.post("/v1/chat/completions", json=fields)
    rendered = TOKENIZER.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=False)
    assert reply.json()["usage"]["prompt_tokens"] == len(TOKENIZER.encode(rendered, add_special_tokens=False))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"continue_final_message": True, "add_generation_prompt": False, "messages": TURNS[:1]},
            "continue_final_message",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {str(i): i for i in range(65)}}, "chat_template_kwargs"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(split: Split, fields: dict[str, Any], param: str) -> None:
    body = {**GREEDY, "messages": TURNS, **fields}
    reply = await split.client.http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    taken = await split.client.http.post(
        "/v1/chat/completions", json={**body, **fields, "chat_template_kwargs": {"x": 1}}
    )
    assert taken.status_code == (400 if "continue_final_message" in fields else 200)
