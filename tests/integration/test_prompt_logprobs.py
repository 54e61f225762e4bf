"""A prompt's own log-probabilities and its echo, over a real trunk, against the whole model.

Shapes: T rows, V vocabulary.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from splitlearn_client.api.schema import MOST_PROMPT_LOGPROBS
from support.running_split import Split
from support.tiny_models import CONTEXT, VOCABULARY, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXT = "the quick brown fox, grüße 😀 the lazy dog"
LONG = [3 + (7 * i + i * i) % (VOCABULARY - 3) for i in range(300)]
CHAT = [{"role": "user", "content": "who jumps?"}]


@torch.inference_mode()
def whole_logprobs(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """The whole model's log-probabilities [T, V] of what follows each token."""
    return model(torch.tensor([list(ids)])).logits[0].log_softmax(dim=-1)


async def asked(split: Split, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "temperature": 0, "max_tokens": 4, "ignore_eos": True, **fields}
    reply = await split.client.http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.parametrize("prompt", [TEXT, LONG, [5]], ids=["text", "long", "one"])
async def test_an_echo_has_the_log_probabilities_of_the_whole_model(
    split: Split, tiny_llama: PreTrainedModel, prompt: str | list[int]
) -> None:
    # cached rows must not be left out
    for _ in range(2):
        choice = (await asked(split, prompt=prompt, echo=True, logprobs=2))["choices"][0]
    plain = (await asked(split, prompt=prompt, logprobs=2))["choices"][0]
    ids = TOKENIZER.encode(prompt) if isinstance(prompt, str) else prompt
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"] == TOKENIZER.decode(ids, skip_special_tokens=True) + plain["text"]
    assert len(told["tokens"]) == len(ids) + 4
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    logprobs_TV = whole_logprobs(tiny_llama, ids)
    expected = [float(logprobs_TV[i, token]) for i, (_, token) in enumerate(pairwise(ids))]
    assert told["token_logprobs"][1 : len(ids)] == pytest.approx(expected, abs=2e-4)
    best = logprobs_TV[:-1].max(dim=-1).values.tolist()
    assert [max(each.values()) for each in told["top_logprobs"][1 : len(ids)]] == pytest.approx(best, abs=2e-4)
    assert told["token_logprobs"][len(ids) :] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=2e-4)
    lengths = [len(token) for token in told["tokens"]]
    assert told["text_offset"] == [sum(lengths[:i]) for i in range(len(lengths))]


async def test_a_prompt_is_scored_without_an_answer(split: Split, tiny_llama: PreTrainedModel) -> None:
    reply = await asked(split, prompt=LONG, echo=True, logprobs=0, max_tokens=0)
    choice = reply["choices"][0]
    expected = whole_logprobs(tiny_llama, LONG)[range(len(LONG) - 1), LONG[1:]].tolist()
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=2e-4)
    assert (choice["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 0)
    assert reply["usage"]["prompt_tokens"] == len(LONG)
    only_text = await asked(split, prompt=TEXT, echo=True, max_tokens=0)
    assert (only_text["choices"][0]["text"], only_text["choices"][0]["logprobs"]) == (TEXT, None)


async def test_every_prompt_of_a_list_is_scored_as_lm_evaluation_harness_asks(
    split: Split, tiny_llama: PreTrainedModel
) -> None:
    prompts = [LONG[:40], LONG[5:17], LONG[100:103]]
    reply = await asked(split, prompt=prompts, echo=True, logprobs=1, max_tokens=1, seed=1234)
    for prompt, choice in zip(prompts, reply["choices"], strict=True):
        told = choice["logprobs"]
        expected = whole_logprobs(tiny_llama, prompt)[range(len(prompt) - 1), prompt[1:]].tolist()
        assert told["token_logprobs"][1:-1] == pytest.approx(expected, abs=2e-4)
        rows = zip(told["token_logprobs"], told["top_logprobs"], strict=True)
        greedy = [token == max(tops.values()) for token, tops in rows if tops]
        best = whole_logprobs(tiny_llama, prompt).argmax(dim=-1).tolist()
        assert greedy[:-1] == [token == likeliest for token, likeliest in zip(prompt[1:], best, strict=False)]


async def test_prompt_logprobs_are_by_id_with_ranks_in_completions_and_chats(
    split: Split, tiny_llama: PreTrainedModel
) -> None:
    choice = (await asked(split, prompt=LONG[:30], prompt_logprobs=3))["choices"][0]
    chat = {"model": "tiny", "messages": CHAT, "prompt_logprobs": 0, "max_tokens": 1}
    of_chat = (await split.client.http.post("/v1/chat/completions", json=chat)).json()["prompt_logprobs"]
    rendered = TOKENIZER.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    chat_ids = TOKENIZER.encode(rendered, add_special_tokens=False)
    for ids, told, n_top in ((LONG[:30], choice["prompt_logprobs"], 3), (chat_ids, of_chat, 0)):
        assert (len(told), told[0]) == (len(ids), None)
        logprobs_TV = whole_logprobs(tiny_llama, ids)
        for i, (entry, token) in enumerate(zip(told[1:], ids[1:], strict=True)):
            order = logprobs_TV[i].argsort(descending=True).tolist()
            assert {int(each) for each in entry} == {*order[:n_top], token}
            for each, found in entry.items():
                assert found["rank"] == order.index(int(each)) + 1
                assert found["logprob"] == pytest.approx(float(logprobs_TV[i, int(each)]), abs=2e-4)


async def test_a_streamed_echo_comes_first_and_the_pieces_join_to_the_whole_reply(split: Split) -> None:
    whole = (await asked(split, prompt=TEXT, echo=True, logprobs=1))["choices"][0]
    more = {"ignore_eos": True}
    stream = await split.client.openai.completions.create(
        model="tiny", prompt=TEXT, echo=True, logprobs=1, temperature=0, max_tokens=4, stream=True, extra_body=more
    )
    pieces = [chunk.choices[0] async for chunk in stream]
    assert pieces[0].text == TEXT
    assert "".join(piece.text for piece in pieces) == whole["text"]
    logprobs = [each for piece in pieces if piece.logprobs for each in piece.logprobs.token_logprobs or []]
    assert logprobs == pytest.approx(whole["logprobs"]["token_logprobs"], abs=2e-4)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"max_tokens": 0}, "max_tokens", "the prompt with echo"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "not streamed"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "less than or equal to 20"),
        (
            {"prompt": [[5] * (CONTEXT - 4)] * 20, "echo": True, "logprobs": 20},
            "logprobs",
            f"at most {MOST_PROMPT_LOGPROBS}",
        ),
    ],
)
async def test_what_cannot_be_scored_is_refused_by_name(
    split: Split, fields: dict[str, Any], param: str, words: str
) -> None:
    reply = await split.client.http.post("/v1/completions", json={"model": "tiny", "prompt": [5, 6], **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    assert words in reply.json()["error"]["message"]
