"""Fields that decide which tokens come and where an answer ends, over a real trunk, against the whole model's own loop.

Shapes: T rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from openai import AsyncOpenAI, BadRequestError
from transformers import PreTrainedModel

from support.running_split import Split
from support.tiny_models import VOCABULARY, tiny_tokenizer

PROMPT = [5, 9, 17, 33, 12]
N = 24
TOKENIZER = tiny_tokenizer()
# Hugging Face's name of each field, and its value there
AS_THERE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"logit_bias": {"7": 3.5, "40": -100}}, {"sequence_bias": {(7,): 3.5, (40,): -100.0}}),
    ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    ({"logit_bias": {"7": 5}, "repetition_penalty": 1.7}, {"sequence_bias": {(7,): 5.0}, "repetition_penalty": 1.7}),
]


@torch.inference_mode()
def whole_answer(model: PreTrainedModel, n: int = N, **fields: Any) -> list[int]:
    """The whole model's own answer by Hugging Face's own loop."""
    ids_1T = torch.tensor([PROMPT])
    output_1T = model.generate(ids_1T, do_sample=False, max_new_tokens=n, **{"eos_token_id": None} | fields)
    return output_1T[0, len(PROMPT) :].tolist()


async def asked(split: Split, **fields: Any) -> dict[str, Any]:
    """The choice of a greedy answer, with the ids of its tokens."""
    body = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "max_tokens": N, "ignore_eos": True, **fields}
    reply = await split.client.http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


def text(ids: Sequence[int]) -> str:
    before: str = TOKENIZER.decode(PROMPT, skip_special_tokens=True)
    found: str = TOKENIZER.decode([*PROMPT, *ids], skip_special_tokens=True)
    return found.removeprefix(before)


@pytest.mark.parametrize(("fields", "theirs"), AS_THERE, ids=str)
async def test_an_answer_has_the_tokens_of_the_whole_model_with_the_same_processors(
    split: Split, tiny_llama: PreTrainedModel, fields: dict[str, Any], theirs: dict[str, Any]
) -> None:
    expected = whole_answer(tiny_llama, **theirs)
    assert expected != whole_answer(tiny_llama)
    choice = await asked(split, **fields)
    assert choice["text"] == text(expected)
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
async def test_only_allowed_tokens_come_and_bad_words_do_not(split: Split, path: str) -> None:
    given: dict[str, Any] = {
        "/v1/completions": {"prompt": "fox", "max_tokens": N},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "fox"}], "max_tokens": N},
        "/v1/responses": {"input": "fox", "max_output_tokens": N},
    }[path]
    allowed = TOKENIZER.encode(" fox dog cat", add_special_tokens=False)

    async def said(**fields: Any) -> str:
        body = {"model": "tiny", "temperature": 0, "ignore_eos": True, "allowed_token_ids": allowed, **given, **fields}
        reply = await split.client.http.post(path, json=body)
        assert reply.status_code == 200, reply.text
        found = reply.json()
        if path == "/v1/responses":
            return str(found["output"][0]["content"][0]["text"])
        (choice,) = found["choices"]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])

    plain = await said()
    assert set(TOKENIZER.encode(plain, add_special_tokens=False)) <= set(allowed)
    bad = plain.strip()[0]
    without = await said(bad_words=[bad])
    assert without
    assert bad not in without


async def test_penalties_of_the_answers_tokens_are_those_of_the_openai_document(
    split: Split, tiny_llama: PreTrainedModel
) -> None:
    ids = list(PROMPT)
    for _ in range(N):
        with torch.inference_mode():
            logits_V = tiny_llama(torch.tensor([ids])).logits[0, -1]
        counts_V = torch.bincount(torch.tensor(ids[len(PROMPT) :], dtype=torch.long), minlength=VOCABULARY)
        ids.append(int((logits_V - 0.9 * counts_V - 0.4 * (counts_V > 0)).argmax()))
    assert ids[len(PROMPT) :] != whole_answer(tiny_llama)
    choice = await asked(split, frequency_penalty=0.9, presence_penalty=0.4)
    assert choice["text"] == text(ids[len(PROMPT) :])


async def test_a_stop_token_ends_the_answer_where_it_ends_in_the_whole_model(
    split: Split, tiny_llama: PreTrainedModel
) -> None:
    plain = whole_answer(tiny_llama)
    end = next(token for token in plain[3:] if plain.index(token) >= 3)
    expected = whole_answer(tiny_llama, eos_token_id=[end])
    assert expected[-1] == end
    choice = await asked(split, stop_token_ids=[end])
    assert (choice["text"], choice["finish_reason"]) == (text(expected[:-1]), "stop")
    assert choice["stop_reason"] == end
    longer = whole_answer(tiny_llama, eos_token_id=[end], min_new_tokens=len(expected) + 2)
    assert len(longer) > len(expected)
    ended = longer[-1] == end
    choice = await asked(split, stop_token_ids=[end], min_tokens=len(expected) + 2)
    assert choice["text"] == text(longer[:-1] if ended else longer)


async def test_a_model_that_wants_to_end_goes_on_only_if_told(split: Split, tiny_llama: PreTrainedModel) -> None:
    # a bias makes the model's own end token the likeliest
    wants = {"logit_bias": {"2": 100}}
    ended = await asked(split, ignore_eos=False, **wants)
    assert (ended["text"], ended["finish_reason"], "stop_reason" in ended) == ("", "stop", False)
    assert (await asked(split, **wants))["finish_reason"] == "length"
    reply = await split.client.complete(prompt=PROMPT, max_tokens=N, min_tokens=5, **wants)
    assert reply.json()["usage"]["completion_tokens"] == 6


async def test_a_stop_string_is_in_the_text_of_a_stream_and_of_a_whole_reply_if_asked_for(split: Split) -> None:
    whole = (await asked(split))["text"]
    stop = whole[5:8]
    end = whole.index(stop) + len(stop)
    choice = await asked(split, stop=stop, include_stop_str_in_output=True)
    assert (choice["text"], choice["stop_reason"]) == (whole[:end], stop)
    openai: AsyncOpenAI = split.client.openai
    more = {"ignore_eos": True, "include_stop_str_in_output": True}
    stream = await openai.completions.create(
        model="tiny", prompt=PROMPT, temperature=0, max_tokens=N, stop=stop, stream=True, extra_body=more
    )
    pieces = [chunk.choices[0] async for chunk in stream]
    assert "".join(piece.text for piece in pieces) == whole[:end]
    assert [getattr(piece, "stop_reason", None) for piece in pieces if piece.finish_reason] == [stop]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"logit_bias": {str(VOCABULARY): 1}}, "logit_bias", f"token id {VOCABULARY} does not exist"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five", "id of a token"),
        ({"stop_token_ids": [5, VOCABULARY]}, "stop_token_ids", f"token id {VOCABULARY} does not exist"),
        ({"allowed_token_ids": [5, VOCABULARY]}, "allowed_token_ids", f"token id {VOCABULARY} does not exist"),
        ({"bad_words": ["x", " "]}, "bad_words.1", "should match pattern"),
        ({"min_tokens": N + 1}, "min_tokens", f"the answer has at most {N}"),
    ],
)
async def test_what_no_answer_can_have_is_refused_by_name(
    split: Split, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        await split.client.openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=N, extra_body=fields)
    assert refused.value.param == param
    assert words in refused.value.message


async def test_a_request_that_leaves_no_token_fails_alone(split: Split) -> None:
    # all but one token are end tokens here, and that one is banned as far as a bias goes
    every = list(range(VOCABULARY))
    reply = await split.client.complete(prompt=PROMPT, max_tokens=4, min_tokens=2, stop_token_ids=every)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "min_tokens")
    assert (await asked(split))["finish_reason"] == "length"
