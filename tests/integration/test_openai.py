"""The client service as programs use it: through the `openai` package, over a real trunk.

Shapes: T rows, V vocabulary.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from transformers import PreTrainedModel

from splitlearn_client.text.vocabulary import LOST, Vocabulary
from splitlearn_comm import CHUNK_BYTES
from support.running_split import Split, running_split
from support.tiny_models import CONTEXT, random_model, save_sepweight, tiny_config, tiny_tokenizer

PROMPT = "the quick brown fox"
QUESTION = [{"role": "user", "content": "who jumps?"}]
N = 24

TOKENIZER = tiny_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompt: Sequence[int], n: int = N) -> list[int]:
    """The whole model's own answer by Hugging Face's own loop."""
    output_1T = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=n)
    return output_1T[0, len(prompt) :].tolist()


@torch.inference_mode()
def whole_logprobs(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """The whole model's log-probabilities at each token of the answer."""
    logits_TV = model(torch.tensor([[*prompt, *answer]])).logits[0]
    return logits_TV[len(prompt) - 1 : -1].log_softmax(dim=-1)


def text(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True))


def continuation(prompt: Sequence[int], answer: Sequence[int]) -> str:
    return text([*prompt, *answer]).removeprefix(text(prompt))


def chat_ids(messages: list[dict[str, str]]) -> list[int]:
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return TOKENIZER.encode(rendered, add_special_tokens=False)


@dataclass
class Streamed:
    """What a stream of either kind came to."""

    text: str = ""
    pieces: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Any = None
    roles: list[str] = field(default_factory=list)


async def completion_stream(openai: AsyncOpenAI, **fields: Any) -> Streamed:
    result = Streamed()
    async for chunk in await openai.completions.create(model="tiny", stream=True, **fields):
        result.usage = chunk.usage or result.usage
        for choice in chunk.choices:
            assert result.finish_reason is None
            result.pieces.append(choice.text)
            result.finish_reason = choice.finish_reason
    result.text = "".join(result.pieces)
    return result


async def chat_stream(openai: AsyncOpenAI, **fields: Any) -> Streamed:
    result = Streamed()
    async for chunk in await openai.chat.completions.create(model="tiny", stream=True, **fields):
        result.usage = chunk.usage or result.usage
        for choice in chunk.choices:
            assert result.finish_reason is None
            result.roles += [choice.delta.role] if choice.delta.role else []
            result.pieces.append(choice.delta.content or "")
            result.finish_reason = choice.finish_reason
    result.text = "".join(result.pieces)
    return result


@pytest.fixture
def openai(split: Split) -> AsyncOpenAI:
    return split.client.openai


async def test_a_greedy_completion_is_the_whole_model_s_token_by_token(
    openai: AsyncOpenAI, tiny_llama: PreTrainedModel
) -> None:
    prompt = TOKENIZER.encode(PROMPT)
    expected = greedy(tiny_llama, prompt)
    answer = await openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=N, temperature=0, logprobs=0)
    choice = answer.choices[0]
    assert choice.text == continuation(prompt, expected)
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    # a token that is a whole text says itself
    for said, token in zip(choice.logprobs.tokens, expected, strict=True):
        assert said.endswith(VOCABULARY.text(token)) or LOST in VOCABULARY.text(token)
    expected_T = whole_logprobs(tiny_llama, prompt, expected).gather(1, torch.tensor(expected)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(choice.logprobs.token_logprobs), expected_T, atol=1e-4, rtol=0)
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), N)
    assert answer.usage.total_tokens == len(prompt) + N


async def test_a_greedy_chat_answer_is_the_whole_model_s_on_the_chat_template(
    openai: AsyncOpenAI, tiny_llama: PreTrainedModel
) -> None:
    prompt = chat_ids(QUESTION)
    answer = await openai.chat.completions.create(
        model="tiny",
        messages=QUESTION,  # type: ignore[arg-type]
        max_completion_tokens=N,
        temperature=0,
    )
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", continuation(prompt, greedy(tiny_llama, prompt)))
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), N)


async def test_a_stream_gives_the_text_of_the_whole_reply_in_pieces(openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": N, "temperature": 0}
    whole = await openai.completions.create(model="tiny", **asked)
    streamed = await completion_stream(openai, **asked)
    assert streamed.text == whole.choices[0].text
    assert streamed.finish_reason == "length"
    assert len(streamed.pieces) == N
    assert streamed.usage is None


async def test_a_chat_stream_names_its_role_once_and_gives_the_text_of_the_whole_reply(openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"messages": QUESTION, "max_tokens": N, "temperature": 0}
    whole = await openai.chat.completions.create(model="tiny", **asked)
    streamed = await chat_stream(openai, **asked)
    assert streamed.text == whole.choices[0].message.content
    assert streamed.roles == ["assistant"]
    assert streamed.finish_reason == "length"


async def test_a_stream_ends_with_usage_if_requested(openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"max_tokens": 5, "temperature": 0, "stream_options": {"include_usage": True}}
    for streamed, prompt in (
        (await completion_stream(openai, prompt=PROMPT, **asked), TOKENIZER.encode(PROMPT)),
        (await chat_stream(openai, messages=QUESTION, **asked), chat_ids(QUESTION)),
    ):
        assert streamed.usage.prompt_tokens == len(prompt)
        assert streamed.usage.completion_tokens == 5
        assert streamed.usage.total_tokens == len(prompt) + 5


async def test_token_ids_are_a_prompt_as_good_as_text(openai: AsyncOpenAI) -> None:
    answers = [
        await openai.completions.create(model="tiny", prompt=prompt, max_tokens=8, temperature=0)
        for prompt in (PROMPT, TOKENIZER.encode(PROMPT))
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text


@pytest.mark.parametrize("cut", [(6, 9), (10, 11)])
async def test_a_stop_string_ends_the_text_before_it_and_is_never_passed_on(
    openai: AsyncOpenAI, tiny_llama: PreTrainedModel, cut: tuple[int, int]
) -> None:
    prompt = TOKENIZER.encode(PROMPT)
    whole = continuation(prompt, greedy(tiny_llama, prompt))
    stop = whole[slice(*cut)]
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": N, "temperature": 0, "stop": ["never said", stop]}
    answer = await openai.completions.create(model="tiny", **asked)
    streamed = await completion_stream(openai, **asked)
    for said, reason in (
        (answer.choices[0].text, answer.choices[0].finish_reason),
        (streamed.text, streamed.finish_reason),
    ):
        assert said == whole[: whole.index(stop)]
        assert reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < N


async def test_a_stop_string_that_never_comes_changes_nothing(openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": N, "temperature": 0}
    plain = await openai.completions.create(**asked)
    begun = plain.choices[0].text[-1] + "and more"
    stopped = await openai.completions.create(**asked, stop=begun)
    assert stopped.choices[0].text == plain.choices[0].text
    assert stopped.choices[0].finish_reason == "length"


async def test_the_end_token_ends_the_answer_without_a_text_of_its_own(tmp_path: Path) -> None:
    prompt = TOKENIZER.encode(PROMPT)
    # the model of the other tests, but it means by its end token what its seventh answer token was
    model = random_model(tiny_config("llama"))
    answer = greedy(model, prompt)
    end = answer[6]
    model.config.eos_token_id = end
    async with running_split(save_sepweight(tmp_path, model)) as split:
        ended = await split.client.openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=N, temperature=0)
    assert ended.choices[0].text == continuation(prompt, answer[: answer.index(end)])
    assert ended.choices[0].finish_reason == "stop"
    assert ended.usage is not None
    assert ended.usage.completion_tokens == answer.index(end) + 1


async def test_without_max_tokens_a_chat_answer_ends_where_the_context_does(openai: AsyncOpenAI) -> None:
    question = [{"role": "user", "content": "x" * (CONTEXT - 40)}]
    asked: dict[str, Any] = {"model": "tiny", "messages": question, "temperature": 0}
    answer = await openai.chat.completions.create(**asked)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == CONTEXT


async def test_the_same_seed_gives_the_same_text_and_another_seed_another(openai: AsyncOpenAI) -> None:
    async def said(seed: int) -> str:
        answer = await openai.completions.create(model="tiny", prompt=PROMPT, max_tokens=N, temperature=1.2, seed=seed)
        return answer.choices[0].text

    texts = [await said(seed) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


async def test_only_the_likeliest_token_allowed_equals_greedy(openai: AsyncOpenAI, tiny_llama: PreTrainedModel) -> None:
    prompt = TOKENIZER.encode(PROMPT)
    expected = continuation(prompt, greedy(tiny_llama, prompt))
    narrow: list[dict[str, Any]] = [{"extra_body": {"top_k": 1}}, {"top_p": 1e-6}, {"extra_body": {"min_p": 1.0}}]
    for fields in narrow:
        answer = await openai.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=N, temperature=1.5, seed=1, **fields
        )
        assert answer.choices[0].text == expected


async def test_chat_logprobs_are_the_whole_model_s_with_the_likeliest_alternatives(
    openai: AsyncOpenAI, tiny_llama: PreTrainedModel
) -> None:
    prompt = chat_ids(QUESTION)
    expected = greedy(tiny_llama, prompt, 6)
    expected_TV = whole_logprobs(tiny_llama, prompt, expected)
    answer = await openai.chat.completions.create(
        model="tiny",
        messages=QUESTION,  # type: ignore[arg-type]
        max_tokens=6,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    reported = answer.choices[0].logprobs
    assert reported is not None
    assert reported.content is not None
    for token, each, values_V in zip(expected, reported.content, expected_TV, strict=True):
        assert each.bytes == list(VOCABULARY.bytes(token))
        assert each.logprob == pytest.approx(float(values_V[token]), abs=1e-4)
        best = values_V.topk(3)
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [top.bytes for top in each.top_logprobs] == [list(VOCABULARY.bytes(i)) for i in best.indices.tolist()]


async def test_a_stream_carries_the_same_logprobs_as_the_whole_reply(openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "temperature": 0.8, "seed": 3}
    whole = await openai.completions.create(**asked, logprobs=2)
    streamed: list[float] = []
    async for chunk in await openai.completions.create(**asked, logprobs=2, stream=True):
        assert chunk.choices[0].logprobs is not None
        streamed += chunk.choices[0].logprobs.token_logprobs or []
    assert whole.choices[0].logprobs is not None
    assert streamed == whole.choices[0].logprobs.token_logprobs


async def test_the_served_model_is_listed_and_found_and_no_other(openai: AsyncOpenAI) -> None:
    assert [model.id async for model in openai.models.list()] == ["tiny"]
    assert (await openai.models.retrieve("tiny")).owned_by == "splitlearn"
    with pytest.raises(NotFoundError, match="'gpt-7' is not served here") as refused:
        await openai.models.retrieve("gpt-7")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_question_to_another_model_is_refused(openai: AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(NotFoundError, match="this service has 'tiny'") as refused:
        await openai.completions.create(model="gpt-7", prompt=PROMPT, stream=stream)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(openai: AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(BadRequestError, match=f"{CONTEXT + 1} tokens.* {CONTEXT} tokens") as refused:
        await openai.completions.create(model="tiny", prompt=[5] * (CONTEXT + 1), stream=stream)
    assert refused.value.code == "context_length_exceeded"
    longest = await openai.completions.create(model="tiny", prompt=[5] * (CONTEXT - 1), temperature=0)
    assert longest.usage is not None
    assert longest.usage.completion_tokens == 1


async def test_requests_at_the_same_time_get_what_each_would_get_alone(openai: AsyncOpenAI) -> None:
    prompts = [PROMPT[: 3 + 2 * i] for i in range(8)]

    async def said(prompt: str, stream: bool) -> str:
        asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 12, "temperature": 0.9, "seed": len(prompt)}
        if stream:
            return (await completion_stream(openai, **asked)).text
        return (await openai.completions.create(model="tiny", **asked)).choices[0].text

    alone = [await said(prompt, stream=False) for prompt in prompts]
    together = await asyncio.gather(*(said(prompt, stream=i % 2 == 0) for i, prompt in enumerate(prompts)))
    assert together == alone
    assert len(set(alone)) == len(prompts)


async def test_a_prompt_of_several_chunks_gives_what_the_whole_model_does(tmp_path: Path) -> None:
    width, context = 512, 2048
    config = tiny_config("llama", hidden_size=width, num_hidden_layers=3, max_position_embeddings=context)
    model = random_model(config)
    rows_per_chunk = CHUNK_BYTES // (width * 4)
    prompt = torch.randint(3, 384, (2 * rows_per_chunk + 7,), generator=torch.Generator().manual_seed(0)).tolist()
    async with running_split(save_sepweight(tmp_path, model)) as split:
        answer = await split.client.openai.completions.create(model="tiny", prompt=prompt, max_tokens=4, temperature=0)
        frames = split.trunk.value("frame_compute_time_seconds_count")
    assert answer.choices[0].text == continuation(prompt, greedy(model, prompt, 4))
    assert frames == 3 + 3  # the prompt's chunks and every token but the last


async def test_a_prompt_beside_a_decoding_request_is_sent_in_small_chunks_with_the_same_answer(tmp_path: Path) -> None:
    n_tokens, length = 400, 500
    model = random_model(tiny_config("llama", num_hidden_layers=3, max_position_embeddings=1024))
    prompt = torch.randint(3, 384, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    async with running_split(save_sepweight(tmp_path, model)) as split:
        openai = split.client.openai
        tokens = await openai.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=n_tokens, stream=True, temperature=0
        )
        await anext(aiter(tokens))
        answer = await openai.completions.create(model="tiny", prompt=prompt, max_tokens=4, temperature=0)
        assert answer.choices[0].text == continuation(prompt, greedy(model, prompt, 4))
        async for _ in tokens:
            pass
        frames = split.trunk.value("frame_compute_time_seconds_count")
    assert frames - n_tokens - 3 > 1  # without those of the tokens; the prompt alone is one frame


async def test_metrics_and_measurements_tell_what_a_request_took(split: Split) -> None:
    reply = (await split.client.complete(prompt=PROMPT, max_tokens=5)).json()
    measured = reply["splitlearn"]
    client, trunk = split.client, split.trunk
    assert client.value("wire_bytes_total", direction="sent", codec="none") == measured["wire_bytes_sent"]
    assert client.value("wire_bytes_total", direction="received", codec="none") == measured["wire_bytes_received"]
    assert trunk.value("wire_bytes_total", direction="received", codec="none") == measured["wire_bytes_sent"]
    assert trunk.value("wire_bytes_total", direction="sent", codec="none") == measured["wire_bytes_received"]
    assert client.value("time_to_first_token_seconds_count") == 1
    assert client.value("inter_token_latency_seconds_count") == 4
    assert client.value("e2e_request_latency_seconds_count") == 1
    assert client.value("generation_tokens_total") == 5
    assert client.value("request_success_total", finished_reason="length") == 1
    assert (client.value("num_requests_running"), client.value("num_requests_waiting")) == (0, 0)
    spent = [client.value(f"request_{kind}_time_seconds_sum") for kind in ("queue", "prefill", "decode")]
    assert sum(spent) == pytest.approx(client.value("e2e_request_latency_seconds_sum"))
    assert spent[0] > 0
    assert client.value("request_generation_tokens_sum") == 5
    assert min(measured["seconds"].values()) >= 0
    assert measured["seconds"]["trunk"] > 0
    page = (await client.http.get("/metrics")).text
    assert "splitlearn_client_trunk_ready 1.0" in page
