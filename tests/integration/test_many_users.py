"""Many requests at once through both services: batched, short of memory, turned away, and beginning alike."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import PreTrainedModel

from splitlearn.engine import Limits
from support.crowd import admit_too_many
from support.running_split import RunningTrunk, Split, running_client, running_trunk, until
from support.tiny_models import VOCABULARY, tiny_tokenizer

N = 24
TOKENIZER = tiny_tokenizer()
LETTER: int = TOKENIZER.encode("x", add_special_tokens=False)[0]


@torch.inference_mode()
def greedy(model: PreTrainedModel, prompt: Sequence[int], n: int = N) -> list[int]:
    """The whole model's own answer by Hugging Face's own loop."""
    output_1T = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=n, eos_token_id=None)
    return output_1T[0, len(prompt) :].tolist()


def prompts(count: int, *, longest: int = 90) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest, (count,), generator=generator)
    # the last token is a whole character, so that answers have a text of their own
    return [[*torch.randint(3, VOCABULARY, (int(n) - 1,), generator=generator).tolist(), LETTER] for n in lengths]


@asynccontextmanager
async def split(weights: Path, *, trunk: dict[str, Any] | None = None, **client: Any) -> AsyncIterator[Split]:
    async with (
        running_trunk(weights, **(trunk or {})) as worker,
        running_client(weights, worker.address, **client) as service,
    ):
        await service.ready()
        yield Split(worker, service)


def said(reply: httpx.Response) -> tuple[str, int]:
    """The text and how many tokens it has, which join to it."""
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    tokens: list[str] = choice["logprobs"]["tokens"]
    assert "".join(tokens) == choice["text"]
    return choice["text"], len(tokens)


async def ask(running: Split, prompt: Sequence[int], n: int = N) -> httpx.Response:
    return await running.client.complete(prompt=list(prompt), max_tokens=n, logprobs=1)


def kv_bytes(trunk: RunningTrunk, rows: int) -> int:
    return trunk.trunk.engine.row_bytes * rows


def spelled(ids: Sequence[int]) -> tuple[str, int]:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True)), len(ids)


async def test_sixteen_requests_at_once_are_answered_as_each_alone(
    tiny_weights: Path, tiny_llama: PreTrainedModel
) -> None:
    asked = prompts(16)
    async with split(tiny_weights) as running:
        replies = await asyncio.gather(*(ask(running, prompt) for prompt in asked))
        for prompt, reply in zip(asked, replies, strict=True):
            assert said(reply) == spelled(greedy(tiny_llama, prompt))
        steps = running.trunk.value("iteration_tokens_count")
        rows = running.trunk.value("iteration_tokens_sum")
    # as many rows as tokens, in far fewer steps
    assert rows == sum(map(len, asked)) + 16 * (N - 1)
    assert steps < rows / 3


async def test_young_sessions_are_preempted_and_every_answer_is_right(
    tiny_weights: Path, tiny_llama: PreTrainedModel
) -> None:
    asked = prompts(6, longest=60)
    async with running_trunk(tiny_weights) as measured:
        memory = kv_bytes(measured, 8 * Limits.page_size)
    async with split(tiny_weights, trunk={"kv_cache_memory_bytes": memory, "enable_prefix_caching": False}) as running:
        admit_too_many(running.trunk.trunk.engine)
        replies = await asyncio.gather(*(ask(running, prompt, 90) for prompt in asked))
        for prompt, reply in zip(asked, replies, strict=True):
            assert said(reply) == spelled(greedy(tiny_llama, prompt, 90))
        assert running.trunk.value("num_preemptions_total") > 0
        assert sum(reply.json()["splitlearn"]["replays"] for reply in replies) > 0
        await until(lambda: running.trunk.value("kv_cache_pages_used") == 0)


async def test_a_request_beyond_the_queue_gets_429_with_retry_after(tiny_weights: Path) -> None:
    async with split(
        tiny_weights, trunk={"max_num_seqs": 1, "max_waiting": 0, "enable_prefix_caching": False}
    ) as running:
        async with running.client.http.stream(
            "POST", "/v1/completions", json={"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 400, "stream": True}
        ) as first:
            lines = first.aiter_lines()
            await anext(lines)
            refused = await ask(running, [5, 6])
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "too_busy"
        # a session that is closed during a step holds its pages, and its place, to the step's end
        await until(lambda: running.trunk.value("kv_cache_pages_used") == 0)
        assert (await ask(running, [5, 6])).status_code == 200


async def test_a_second_turn_runs_only_what_is_new_and_says_the_same(
    tiny_weights: Path, tiny_llama: PreTrainedModel
) -> None:
    question = prompts(1, longest=200)[0] * 3
    async with split(tiny_weights) as running, split(tiny_weights, enable_prefix_caching=False) as without:
        answer = greedy(tiny_llama, question)
        assert said(await ask(running, question)) == spelled(answer)
        turn = [*question, *answer, 7, 8, 9]
        before = running.trunk.value("rows_total")
        again, plain = await ask(running, turn), await ask(without, turn)
        assert said(again) == said(plain) == spelled(greedy(tiny_llama, turn))
        whole = (len(question) + N - 1) // Limits.block_size * Limits.block_size
        assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == whole
        assert plain.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert running.trunk.value("rows_total") - before == len(turn) - whole + N - 1
        hits = [each.value("prefix_cache_hits_total") for each in (running.trunk, running.client)]
        assert hits == [whole, whole]
        assert running.trunk.value("prefix_cache_queries_total") == len(turn) // Limits.block_size * Limits.block_size
        assert running.client.value("prefix_cache_queries_total") == len(question) + len(turn)
        assert again.json()["splitlearn"]["wire_bytes_sent"] < plain.json()["splitlearn"]["wire_bytes_sent"] / 2


async def test_an_evicted_prefix_is_computed_again(tiny_weights: Path, tiny_llama: PreTrainedModel) -> None:
    first, second = prompts(2, longest=20)
    first, second = (first * 40)[:100], (second * 40)[:100]
    async with running_trunk(tiny_weights) as measured:
        memory = kv_bytes(measured, 7 * Limits.page_size)
    async with split(tiny_weights, trunk={"kv_cache_memory_bytes": memory}) as running:
        for prompt in (first, second, first):
            assert said(await ask(running, prompt)) == spelled(greedy(tiny_llama, prompt))
        assert running.trunk.value("num_preemptions_total") == 0
        assert running.trunk.value("cached_prefixes") == 1
        used, limit = (running.trunk.value(f"kv_cache_pages_{which}") for which in ("used", "limit"))
        assert running.trunk.value("kv_cache_usage_perc") == used / limit > 0


async def test_an_idle_session_loses_its_kv_cache_and_goes_on(tiny_weights: Path, tiny_llama: PreTrainedModel) -> None:
    async with split(tiny_weights) as running:
        body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 40, "temperature": 0, "stream": True}
        engine = running.trunk.trunk.engine
        async with running.client.http.stream("POST", "/v1/completions", json=body) as reply:
            lines = reply.aiter_lines()
            await anext(lines)
            await until(lambda: engine.pages.used > 0)
            engine.expire(-1.0)
            text = "".join([line async for line in lines])
        assert "error" not in text
        assert text.endswith("[DONE]")


@pytest.mark.parametrize("most", [16, 64])
async def test_prompts_in_small_chunks_give_the_same_answers(
    tiny_weights: Path, tiny_llama: PreTrainedModel, most: int
) -> None:
    asked = prompts(4, longest=300)
    limits = {"max_num_batched_tokens": most}
    async with split(tiny_weights, trunk=limits, **limits) as running:
        replies = await asyncio.gather(*(ask(running, prompt) for prompt in asked))
        for prompt, reply in zip(asked, replies, strict=True):
            assert said(reply) == spelled(greedy(tiny_llama, prompt))
