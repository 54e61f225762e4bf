"""/tokenize, /detokenize, /tokenizer_info and /version, as vLLM has them and lm-evaluation-harness asks for them."""

from importlib.metadata import version
from typing import Any

import pytest

from support.running_split import Split
from support.tiny_models import CONTEXT, VOCABULARY, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXT = "the quick brown fox, grüße 😀"
TOOL = {"type": "function", "function": {"name": "f"}}
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "who jumps?"}]


async def sent(split: Split, path: str, **body: Any) -> dict[str, Any]:
    reply = await split.client.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.parametrize("special", [None, True, False])
@pytest.mark.parametrize("text", [TEXT, "", "<s>the"])
async def test_a_text_has_the_tokens_of_the_tokenizer(split: Split, text: str, special: bool | None) -> None:
    fields = {} if special is None else {"add_special_tokens": special}
    found = await sent(split, "/tokenize", model="tiny", prompt=text, **fields)
    expected = TOKENIZER.encode(text, add_special_tokens=special is not False)
    assert found == {"count": len(expected), "max_model_len": CONTEXT, "tokens": expected, "token_strs": None}


async def test_tokens_are_spelled_as_in_the_vocabulary_if_asked_for(split: Split) -> None:
    found = await sent(split, "/tokenize", prompt=TEXT, return_token_strs=True)
    assert found["token_strs"] == TOKENIZER.convert_ids_to_tokens(found["tokens"])


@pytest.mark.parametrize("answer", [True, False])
async def test_a_conversation_has_the_tokens_of_the_chat_template(split: Split, answer: bool) -> None:
    rendered = TOKENIZER.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=answer)
    found = await sent(split, "/tokenize", messages=CHAT, add_generation_prompt=answer)
    assert found["tokens"] == TOKENIZER.encode(rendered, add_special_tokens=False)
    if answer:
        usage = (await split.client.http.post("/v1/chat/completions", json={"model": "tiny", "messages": CHAT})).json()
        assert usage["usage"]["prompt_tokens"] == found["count"]


async def test_tokens_come_back_as_the_text_with_special_tokens(split: Split) -> None:
    ids = TOKENIZER.encode(TEXT)
    expected = TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert await sent(split, "/detokenize", tokens=ids) == {"prompt": expected}
    assert await sent(split, "/detokenize", tokens=[]) == {"prompt": ""}


async def test_a_program_learns_what_it_needs_to_prepare_prompts_itself(split: Split) -> None:
    found = (await split.client.http.get("/tokenizer_info")).json()
    assert found["chat_template"] == TOKENIZER.chat_template
    assert [found[name] for name in ("bos_token", "eos_token")] == [TOKENIZER.bos_token, TOKENIZER.eos_token]
    assert (found["model_max_length"], found["vocab_size"]) == (CONTEXT, VOCABULARY)


async def test_the_version_is_that_of_the_package(split: Split) -> None:
    assert (await split.client.http.get("/version")).json() == {"version": version("splitlearn")}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": CHAT}, 400, "prompt"),
        ("/tokenize", {"prompt": [5]}, 400, "prompt"),
        ("/tokenize", {"prompt": "x", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": "x", "tools": [TOOL]}, 400, "tools"),
        ("/tokenize", {"messages": CHAT, "tools": [TOOL]}, 400, "tools"),
        ("/tokenize", {"messages": CHAT, "tools": [{}]}, 400, "tools.0.type"),
        ("/tokenize", {"prompt": "the " * 100_000}, 400, "prompt"),
        ("/detokenize", {"tokens": [5, VOCABULARY]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": ["5"]}, 400, "tokens.0"),
        ("/detokenize", {"tokens": [5] * (CONTEXT + 1)}, 400, "tokens"),
        ("/detokenize", {"tokens": [5], "model": "other"}, 404, "model"),
        ("/detokenize", {}, 400, "tokens"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    split: Split, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    reply = await split.client.http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text
