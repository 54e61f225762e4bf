"""With one seed at temperature 1 a request says the same alone and in a crowd, in bf16, int8 and int4."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.backends.cpu.kernels import kernels
from support.crowd import admit_too_many
from support.running_split import RunningClient, running_client, running_trunk
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C compiler at installation, or no AVX2 with FMA")

LENGTHS = (3, 40, 130, 9, 64, 33, 220, 17)
NEW_TOKENS = 12
# of the trunk, for fewer rows than all of them bring: some lose theirs
FEW_PAGES = 300 * 384


def prompt(index: int) -> list[int]:
    """All begin alike, as chats do with one system prompt."""
    dice = torch.Generator().manual_seed(7)
    begins = torch.randint(3, VOCABULARY, (max(LENGTHS),), generator=dice)[: LENGTHS[index] * 2 // 3]
    ends = torch.randint(3, VOCABULARY, (LENGTHS[index] - begins.shape[0],), generator=dice.manual_seed(index))
    return [*begins.tolist(), *ends.tolist()]


async def said(client: RunningClient, index: int) -> dict[str, Any]:
    fields = {"prompt": prompt(index), "seed": index, "temperature": 1, "max_tokens": NEW_TOKENS, "logprobs": 2}
    reply = await client.complete(**fields)
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_model(tiny_config("llama")).bfloat16()
    return save_sepweight(tmp_path_factory.mktemp("bf16"), model, dtype="bfloat16")


@dataclass(frozen=True)
class Said:
    choices: list[dict[str, Any]]
    n_preempted: float
    n_reused: float


async def all_said(
    weights: Path, rounds: Sequence[Sequence[int]], trunk_settings: dict[str, Any], client_settings: dict[str, Any]
) -> Said:
    """What each request of each round says; those of a round are sent at once."""
    async with (
        running_trunk(weights, **trunk_settings) as trunk,
        running_client(weights, trunk.address, **client_settings) as client,
    ):
        admit_too_many(trunk.trunk.engine)
        await client.ready()
        choices: list[dict[str, Any]] = []
        for each in rounds:
            choices += await asyncio.gather(*(said(client, index) for index in each))
        return Said(choices, trunk.value("num_preemptions_total"), trunk.value("prefix_cache_hits_total"))


async def alone_and_in_a_crowd(weights: Path, quantization: str, **trunk_settings: Any) -> Said:
    """What a crowd was told, which is what each of them is told alone."""
    everybody, same = range(len(LENGTHS)), {"quantization": quantization}
    alone = {**same, "enable_prefix_caching": False}
    expected = (await all_said(weights, [[index] for index in everybody], alone, alone)).choices
    # a second time behind what the first left, in other company
    rounds = [[*everybody], [*everybody][::-2]]
    crowded = {**same, "max_num_batched_tokens": 16}
    found = await all_said(weights, rounds, {**crowded, **trunk_settings}, crowded)
    assert found.choices == [expected[index] for each in rounds for index in each]
    return found


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
async def test_a_request_says_the_same_behind_what_others_left(weights: Path, quantization: str) -> None:
    assert (await alone_and_in_a_crowd(weights, quantization)).n_reused > 0


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
async def test_a_request_says_the_same_where_pages_are_short(weights: Path, quantization: str) -> None:
    assert (await alone_and_in_a_crowd(weights, quantization, kv_cache_memory_bytes=FEW_PAGES)).n_preempted > 0
