"""A prompt with a token that the model lacks, however it came past the API: refused, and nobody beside it notices."""

import asyncio

import pytest

from splitlearn_client.errors import BadRequest
from splitlearn_client.generation import GenerationRequest
from splitlearn_client.report import Report
from splitlearn_client.sampling import SamplingSettings
from support.running_split import Split
from support.tiny_models import VOCABULARY

GREEDY = SamplingSettings(temperature=0, top_logprobs=0)


async def tokens(split: Split, prompt: tuple[int, ...]) -> list[int]:
    deltas = split.client.service.generator.generate(GenerationRequest(prompt, 8, GREEDY), Report())
    return [entry.token async for delta in deltas for entry in delta.logprobs]


async def test_an_id_past_the_embedding_table_is_refused_for_its_request_alone(split: Split) -> None:
    honest = [tuple(range(3, 9 + i)) for i in range(6)]
    alone = [await tokens(split, prompt) for prompt in honest]
    asked = [tokens(split, prompt) for prompt in honest] + [tokens(split, (5, 7, VOCABULARY)) for _ in range(3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert found[:6] == alone
    assert [type(error) for error in found[6:]] == [BadRequest] * 3
    with pytest.raises(BadRequest, match=f"token id {VOCABULARY} does not exist"):
        await tokens(split, (VOCABULARY,))
