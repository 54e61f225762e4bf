"""A prompt is scored while parts lose rows, replicas die, logits break or the caller leaves.

Shapes: T rows, V vocabulary.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from splitlearn_client.prompt_scores import PromptScores
from support.crowd import admit_too_many
from support.running_split import RunningClient, Split, running_client, running_trunk, until
from support.tiny_models import VOCABULARY

PROMPTS = [[3 + (7 * i + i * i + n) % (VOCABULARY - 3) for i in range(300 + n)] for n in range(6)]
ASKED: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 0}


@torch.inference_mode()
def whole_logprobs(model: PreTrainedModel, ids: list[int]) -> list[float]:
    logprobs_TV = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    found: list[float] = logprobs_TV[range(len(ids) - 1), ids[1:]].tolist()
    return found


async def scored(client: RunningClient, prompt: list[int]) -> dict[str, Any]:
    reply = await client.complete(prompt=prompt, **ASKED)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of 16 rows, as with a vocabulary of half a million entries."""
    monkeypatch.setattr(PromptScores, "rows_at_once", staticmethod(lambda _: 16))


@pytest.mark.usefixtures("few_rows")
async def test_the_scores_are_the_same_when_a_replica_dies_in_the_middle(
    tiny_weights: Path, tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running_trunk(tiny_weights) as first,
        running_trunk(tiny_weights) as second,
        running_client(tiny_weights, f"{first.address},{second.address}") as client,
    ):
        await client.ready()
        # rows that a replica has cached must not be taken for scored ones
        expected = await scored(client, PROMPTS[0])
        half_way, add = asyncio.Event(), PromptScores.add
        loop = asyncio.get_running_loop()

        def watched(scores: PromptScores, position: int, logits_TV: torch.Tensor) -> None:
            add(scores, position, logits_TV)
            if position >= 96:
                loop.call_soon_threadsafe(half_way.set)

        monkeypatch.setattr(PromptScores, "add", watched)
        asking = asyncio.create_task(scored(client, PROMPTS[0]))
        await half_way.wait()
        (busy,) = [trunk for trunk in (first, second) if trunk.open_sessions]
        await busy.server.stop()
        body = await asking
    assert len(body["splitlearn"]["failovers"]) == 1
    for each in (expected, body):
        told = each["choices"][0]["logprobs"]["token_logprobs"][1:]
        assert told == pytest.approx(whole_logprobs(tiny_llama, PROMPTS[0]), abs=2e-4)


@pytest.mark.usefixtures("few_rows")
async def test_the_scores_are_the_same_when_parts_lose_rows_to_older_sessions(
    tiny_weights: Path, tiny_llama: PreTrainedModel
) -> None:
    async with running_trunk(tiny_weights) as measured:
        engine = measured.trunk.engine
        memory = engine.row_bytes * engine.pages.page_size * 30
    async with (
        running_trunk(tiny_weights, kv_cache_memory_bytes=memory, enable_prefix_caching=False) as trunk,
        running_client(tiny_weights, trunk.address) as client,
    ):
        await client.ready()
        admit_too_many(trunk.trunk.engine)
        bodies = await asyncio.gather(*(scored(client, prompt) for prompt in PROMPTS))
        assert sum(body["splitlearn"]["replays"] for body in bodies) > 0
    for prompt, body in zip(PROMPTS, bodies, strict=True):
        told = body["choices"][0]["logprobs"]["token_logprobs"][1:]
        assert told == pytest.approx(whole_logprobs(tiny_llama, prompt), abs=2e-4)


async def test_a_caller_that_leaves_while_its_prompt_is_scored_leaves_nothing_behind(
    split: Split, tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, add = asyncio.Event(), PromptScores.add
    loop = asyncio.get_running_loop()

    def watched(scores: PromptScores, position: int, logits_TV: torch.Tensor) -> None:
        loop.call_soon_threadsafe(began.set)
        add(scores, position, logits_TV)

    with monkeypatch.context() as patched:
        patched.setattr(PromptScores, "add", watched)
        patched.setattr(PromptScores, "rows_at_once", staticmethod(lambda _: 1))
        asking = asyncio.create_task(scored(split.client, PROMPTS[0]))
        await began.wait()
        asking.cancel()
        await until(lambda: not split.trunk.open_sessions)
    told = (await scored(split.client, PROMPTS[1]))["choices"][0]["logprobs"]["token_logprobs"][1:]
    assert told == pytest.approx(whole_logprobs(tiny_llama, PROMPTS[1]), abs=2e-4)
    await until(lambda: split.client.value("num_requests_running") == 0)


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
async def test_logits_that_break_in_the_middle_of_a_prompt_end_it_alone(
    split: Split, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    add = PromptScores.add

    def broken(scores: PromptScores, position: int, logits_TV: torch.Tensor) -> None:
        logits_TV = logits_TV.clone()
        logits_TV[logits_TV.shape[0] // 2] = bad
        add(scores, position, logits_TV)

    monkeypatch.setattr(PromptScores, "add", broken)
    reply = await split.client.complete(prompt=PROMPTS[0], **ASKED)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "broken_numbers")
    monkeypatch.undo()
    assert (await split.client.complete(prompt=PROMPTS[0], **ASKED)).status_code == 200
