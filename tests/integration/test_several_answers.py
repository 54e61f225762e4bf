"""Several answers to one prompt, `n` and `best_of`, over a real trunk."""

import asyncio
from collections import defaultdict
from statistics import mean
from typing import Any

import pytest
from openai import AsyncOpenAI

from support.running_split import Split, running_split, until
from support.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPT = "the quick brown fox jumps over the lazy dog and the quick brown fox"
CHAT = [{"role": "user", "content": "who jumps?"}]
SEEDED: dict[str, Any] = {"model": "tiny", "temperature": 0.9, "seed": 11, "max_tokens": 12}


@pytest.fixture
def openai(split: Split) -> AsyncOpenAI:
    return split.client.openai


async def alone(openai: AsyncOpenAI, number: int, **fields: Any) -> Any:
    """The only answer with the seed that the answer of that number has."""
    reply = await openai.completions.create(**{**SEEDED, **fields, "seed": SEEDED["seed"] + number})
    return reply.choices[0]


@pytest.mark.parametrize("n", [2, 11])
async def test_each_answer_is_the_only_one_with_a_seed_of_its_own(openai: AsyncOpenAI, n: int) -> None:
    reply = await openai.completions.create(prompt=PROMPT, n=n, logprobs=1, **SEEDED)
    assert [choice.index for choice in reply.choices] == list(range(n))
    for choice in reply.choices:
        expected = await alone(openai, choice.index, prompt=PROMPT, logprobs=1)
        assert (choice.text, choice.finish_reason) == (expected.text, expected.finish_reason)
        assert choice.logprobs.token_logprobs == pytest.approx(expected.logprobs.token_logprobs, abs=1e-4)
    assert len({choice.text for choice in reply.choices}) > 1
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(TOKENIZER.encode(PROMPT))
    assert reply.usage.completion_tokens == sum(len(choice.logprobs.tokens) for choice in reply.choices)


async def test_the_prompt_is_run_once_for_all_answers(split: Split) -> None:
    prompt = [5 + i % 200 for i in range(160)]
    body = {**SEEDED, "prompt": prompt, "n": 6, "max_tokens": 3, "ignore_eos": True}
    reply = await split.client.http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    # each answer runs those rows again that fill no block, and its own
    rows = split.trunk.value("rows_total")
    assert len(prompt) <= rows <= len(prompt) + 6 * (16 + 3)
    assert split.client.value("request_success_total", finished_reason="length") == 1


async def test_answers_of_a_chat_and_of_several_prompts_have_their_places(openai: AsyncOpenAI) -> None:
    reply = await openai.chat.completions.create(messages=CHAT, n=3, **SEEDED)  # type: ignore[arg-type]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert all(choice.message.content is not None for choice in reply.choices)
    prompts = ["the quick", "brown fox"]
    lists = await openai.completions.create(prompt=prompts, n=2, **SEEDED)
    assert [choice.index for choice in lists.choices] == [0, 1, 2, 3]
    for place, choice in enumerate(lists.choices):
        assert choice.text == (await alone(openai, place % 2, prompt=prompts[place // 2])).text


async def test_streamed_answers_come_side_by_side_and_join_to_the_whole_ones(openai: AsyncOpenAI) -> None:
    whole = await openai.completions.create(prompt=PROMPT, n=4, **SEEDED)
    stream = await openai.completions.create(
        prompt=PROMPT, n=4, stream=True, stream_options={"include_usage": True}, **SEEDED
    )
    texts: dict[int, str] = defaultdict(str)
    ends: dict[int, str | None] = {}
    order, usage = [], None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert ends.get(choice.index) is None
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason
            order.append(choice.index)
    assert dict(texts) == {choice.index: choice.text for choice in whole.choices}
    assert all(ends.values())
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    # not one after the other
    assert order != sorted(order)
    roles = [
        (choice.index, choice.delta.role)
        async for chunk in await openai.chat.completions.create(messages=CHAT, n=2, stream=True, **SEEDED)  # type: ignore[arg-type]
        for choice in chunk.choices
        if choice.delta.role
    ]
    assert sorted(roles) == [(0, "assistant"), (1, "assistant")]


async def test_the_best_answers_have_the_likeliest_tokens(openai: AsyncOpenAI) -> None:
    every = await openai.completions.create(prompt=PROMPT, n=5, logprobs=0, **SEEDED)
    best = await openai.completions.create(prompt=PROMPT, n=2, best_of=5, **SEEDED)
    ranked = sorted(every.choices, key=lambda choice: mean(choice.logprobs.token_logprobs), reverse=True)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert [(choice.index, choice.logprobs) for choice in best.choices] == [(0, None), (1, None)]
    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens


async def test_an_echo_comes_before_each_answer(openai: AsyncOpenAI) -> None:
    plain = await openai.completions.create(prompt=PROMPT, n=2, logprobs=0, **SEEDED)
    echoed = await openai.completions.create(prompt=PROMPT, n=2, logprobs=0, echo=True, **SEEDED)
    for one, other in zip(plain.choices, echoed.choices, strict=True):
        assert other.text == PROMPT + one.text
        assert other.logprobs.text_offset[-1] == len(PROMPT) + one.logprobs.text_offset[-1]
    only = await openai.completions.create(prompt=PROMPT, n=2, echo=True, **{**SEEDED, "max_tokens": 0})
    assert [choice.text for choice in only.choices] == [PROMPT, PROMPT]


async def test_who_hangs_up_leaves_no_session(split: Split) -> None:
    body = {**SEEDED, "prompt": PROMPT, "n": 5, "max_tokens": 300, "ignore_eos": True, "stream": True}
    async with split.client.http.stream("POST", "/v1/completions", json=body) as reply:
        lines = reply.aiter_lines()
        for _ in range(20):
            await anext(lines)
        await until(lambda: split.trunk.open_sessions == 5)
    await until(lambda: split.trunk.open_sessions == 0)


async def test_a_trunk_that_fails_ends_all_answers_with_one_error(tiny_weights: Any) -> None:
    async with running_split(tiny_weights, failover_timeout=0.1) as split:
        body = {**SEEDED, "prompt": PROMPT, "n": 3, "max_tokens": 400, "ignore_eos": True}
        asking = asyncio.create_task(split.client.http.post("/v1/completions", json=body))
        await until(lambda: split.trunk.open_sessions == 3)
        await split.trunk.server.stop()
        reply = await asking
        assert reply.status_code in (502, 503), reply.text
        assert "error" in reply.json()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"prompt": ["x"] * 65, "n": 2}, "n"),
        ({"prompt": ["x"] * 65, "best_of": 2}, "best_of"),
    ],
)
async def test_what_cannot_be_chosen_is_refused_by_name(split: Split, fields: dict[str, Any], param: str) -> None:
    reply = await split.client.http.post("/v1/completions", json={**SEEDED, "prompt": PROMPT, **fields})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
