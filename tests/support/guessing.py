"""Requests of all kinds to tiny models, whose answers are compared with guesses and without."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.backends.cpu.kernels import kernels
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.report import Report
from splitlearn_client.sampling import SamplingSettings
from splitlearn_client.stopping import StopRules
from support.running_split import RunningClient, RunningTrunk, running_client, running_trunk
from support.shadows import exported, random_shadow, trunk_as_shadow
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

needs_kernels = pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX2 with FMA")

PROMPTS = tuple(
    torch.randint(3, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (3, 40, 17)
)
NEW_TOKENS = 24
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"temperature": 1, "seed": 5},
    "log-probabilities": {"temperature": 1, "seed": 6, "logprobs": 3},
    "penalties": {"temperature": 0.7, "seed": 7, "frequency_penalty": 0.5, "repetition_penalty": 1.2, "top_p": 0.9},
    "echo": {"echo": True, "logprobs": 1},
    "several answers": {"n": 3, "temperature": 1, "seed": 8},
    "no end before": {"min_tokens": 12, "temperature": 1, "seed": 9},
    "a bias": {"logit_bias": {"5": 4, "9": 3}, "temperature": 1, "seed": 10},
    "a regex": {"structured_outputs": {"regex": "([a-f]{2}[0-9]){1,6}"}, "temperature": 1, "seed": 11},
    "a schema": {
        "structured_outputs": {"json": {"type": "array", "items": {"type": "integer"}, "maxItems": 4}},
        "temperature": 1,
        "seed": 12,
    },
}


def saved(folder: Path, kind: str) -> Path:
    """A sepweight directory of a tiny model in bf16, whose rows are the same to the bit whatever is beside them."""
    return save_sepweight(folder, random_model(tiny_config(kind)).bfloat16(), dtype="bfloat16")


@asynccontextmanager
async def split(
    weights: Path, trunk_settings: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[RunningTrunk, RunningClient]]:
    """Both ends, and the client ready."""
    async with (
        running_trunk(weights, **(trunk_settings or {})) as trunk,
        running_client(weights, trunk.address, **settings) as client,
    ):
        await client.ready()
        yield trunk, client


async def choices(client: RunningClient, prompt: Sequence[int], fields: dict[str, Any]) -> Any:
    """Of the answer to one request."""
    reply = await client.complete(prompt=prompt, max_tokens=NEW_TOKENS, **fields)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"]


async def all_choices(client: RunningClient) -> list[Any]:
    """Of all requests to all prompts, at once."""
    asked = [choices(client, prompt, fields) for prompt in PROMPTS for fields in REQUESTS.values()]
    return list(await asyncio.gather(*asked))


async def greedy_text(client: RunningClient, prompt: Sequence[int]) -> list[int]:
    """The prompt's ids and the greedy answer's."""
    request = GenerationRequest(
        tuple(prompt), NEW_TOKENS, SamplingSettings(temperature=0, top_logprobs=0), StopRules(ignore_eos=True)
    )
    deltas = [delta async for delta in client.service.generator.generate(request, Report())]
    return [*prompt, *(entry.token for delta in deltas for entry in delta.logprobs)]


def knowing_and_not(method: str, weights: Path, folder: Path) -> tuple[Path, Path]:
    """What guesses with that method the likeliest tokens, and what guesses anything."""
    if "shadow" in method:
        shadows = trunk_as_shadow(weights), random_shadow()
        knowing, other = (exported(each, folder / str(n), weights) for n, each in enumerate(shadows))
        return knowing, other
    return weights, saved(folder, "qwen2")
