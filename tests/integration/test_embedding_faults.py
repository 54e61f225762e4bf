"""Texts are embedded while replicas die, parts lose rows, numbers break or the caller leaves; whose tokens they are.

Shapes: T rows, D hidden size.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from structlog.testing import capture_logs
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from splitlearn_client.embedding import AT_ONCE
from splitlearn_client.pooling import Pooler
from support.crowd import admit_too_many
from support.running_split import RunningClient, Split, busy, running_client, running_split, running_trunk, until
from support.tiny_models import VOCABULARY

INPUTS = [[3 + (7 * i + i * i + n) % (VOCABULARY - 3) for i in range(300 + n)] for n in range(6)]


@torch.inference_mode()
def mean_of(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    return normalize(model.base_model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0), dim=0)


async def asked(client: RunningClient, sent: Any, **more: Any) -> httpx.Response:
    return await client.http.post("/v1/embeddings", json={"model": "tiny", "input": sent}, **more)


async def embedded(client: RunningClient, sent: Any) -> dict[str, Any]:
    reply = await asked(client, sent)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def assert_means(model: PreTrainedModel, body: dict[str, Any], inputs: list[list[int]]) -> None:
    for each, ids in zip(body["data"], inputs, strict=True):
        torch.testing.assert_close(torch.tensor(each["embedding"]), mean_of(model, ids), atol=2e-5, rtol=2e-5)


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of 16 rows."""
    monkeypatch.setattr(Pooler, "rows_at_once", staticmethod(lambda _: 16))


@pytest.mark.usefixtures("few_rows")
async def test_the_mean_is_the_same_when_a_replica_dies_in_the_middle(
    tiny_weights: Path, tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running_trunk(tiny_weights) as first,
        running_trunk(tiny_weights) as second,
        running_client(tiny_weights, f"{first.address},{second.address}", pooling="mean") as client,
    ):
        await client.ready()
        half_way, add = asyncio.Event(), Pooler.add
        loop = asyncio.get_running_loop()

        def watched(pooler: Pooler, position: int, hidden_TD: torch.Tensor) -> None:
            add(pooler, position, hidden_TD)
            if position >= 96:
                loop.call_soon_threadsafe(half_way.set)

        monkeypatch.setattr(Pooler, "add", watched)
        asking = asyncio.create_task(embedded(client, INPUTS[:1]))
        await half_way.wait()
        (dying,) = [trunk for trunk in (first, second) if trunk.open_sessions]
        await dying.server.stop()
        body = await asking
    assert len(body["splitlearn"]["failovers"]) == 1
    assert_means(tiny_llama, body, INPUTS[:1])


@pytest.mark.usefixtures("few_rows")
async def test_the_means_are_the_same_when_parts_lose_rows_to_older_sessions(
    tiny_weights: Path, tiny_llama: PreTrainedModel
) -> None:
    async with running_trunk(tiny_weights) as measured:
        engine = measured.trunk.engine
        memory = engine.row_bytes * engine.pages.page_size * 30
    async with (
        running_trunk(tiny_weights, kv_cache_memory_bytes=memory, enable_prefix_caching=False) as trunk,
        running_client(tiny_weights, trunk.address, pooling="mean") as client,
    ):
        await client.ready()
        admit_too_many(trunk.trunk.engine)
        body = await embedded(client, INPUTS)
    assert body["splitlearn"]["replays"] > 0
    assert_means(tiny_llama, body, INPUTS)


async def test_a_caller_that_leaves_ends_every_session_of_its_inputs(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with busy(split.trunk):
            asking = asyncio.create_task(asked(split.client, [[5, 6, 7 + i] for i in range(200)]))
            # no more at once, however many there are
            await until(lambda: split.trunk.open_sessions == AT_ONCE)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            await until(lambda: split.trunk.open_sessions == 0)
            await until(lambda: split.client.value("num_requests_running") == 0)
    assert not [line for line in logs if line["log_level"] not in ("info", "debug")]
    assert split.client.value("request_success_total", finished_reason="abort") == 1


async def test_broken_numbers_end_the_request_and_none_of_its_rows_are_cached(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Pooler.add

    def broken(pooler: Pooler, position: int, hidden_TD: torch.Tensor) -> None:
        add(pooler, position, torch.full_like(hidden_TD, float("nan")))

    monkeypatch.setattr(Pooler, "add", broken)
    reply = await asked(split.client, [INPUTS[0], [5]])
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "broken_numbers")
    monkeypatch.undo()
    assert (await asked(split.client, INPUTS[0])).status_code == 200
    assert split.client.value("prefix_cache_hits_total") == 0


async def test_a_mean_computes_all_rows_and_takes_no_place_in_the_caches(
    tiny_weights: Path, tiny_llama: PreTrainedModel
) -> None:
    async with running_split(tiny_weights, pooling="mean") as split:
        await embedded(split.client, INPUTS[0])
        assert split.trunk.value("cached_prefixes") == 0
        await split.client.complete(prompt=INPUTS[0], max_tokens=1)
        assert split.trunk.value("cached_prefixes") == 1
        assert_means(tiny_llama, await embedded(split.client, INPUTS[:1]), INPUTS[:1])
        assert split.client.value("prefix_cache_hits_total") == 0


async def test_the_last_token_goes_on_behind_cached_rows(tiny_weights: Path, tiny_llama: PreTrainedModel) -> None:
    other_end = [*INPUTS[0][:-1], 5]
    async with running_split(tiny_weights) as split:
        fresh = [await embedded(split.client, ids) for ids in (INPUTS[0], INPUTS[0], other_end)]
        # whole blocks of 32 rows
        assert split.client.value("prefix_cache_hits_total") == 2 * 288
        first, again, other = (torch.tensor(each["data"][0]["embedding"]) for each in fresh)
        torch.testing.assert_close(again, first, atol=2e-5, rtol=2e-5)
        hidden_TD = tiny_llama.base_model(torch.tensor([other_end])).last_hidden_state[0]
        torch.testing.assert_close(other, normalize(hidden_TD[-1], dim=0).detach(), atol=2e-5, rtol=2e-5)


async def test_a_request_counts_once_with_all_its_tokens_and_they_are_its_tenants(
    tiny_weights: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "tenants.toml"
    keys.write_text('[alice]\nkeys = ["sk-alice-4b1f8c26d9"]\ntpm_limit = 1000\n')
    async with running_split(tiny_weights, tenants=keys) as split:
        headers = {"Authorization": "Bearer sk-alice-4b1f8c26d9"}
        assert (await asked(split.client, "x")).status_code == 401
        with capture_logs() as logs:
            # may spend more than is left, and then waits
            assert (await asked(split.client, INPUTS, headers=headers)).status_code == 200
        refused = await asked(split.client, "x", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        n_tokens = sum(map(len, INPUTS))
        value = split.client.value
        assert value("tenant_tokens_total", tenant="alice", kind="prompt") == n_tokens
        assert (value("prompt_tokens_total"), value("generation_tokens_total")) == (n_tokens, 0)
        assert value("request_success_total", finished_reason="stop") == 1
        assert value("e2e_request_latency_seconds_count") == 1
        # no token was generated
        assert value("time_to_first_token_seconds_count") == 0
    (line,) = [line for line in logs if line["event"] == "request finished"]
    assert (line["prompt_tokens"], line["finish_reason"], line["tenant"]) == (n_tokens, "stop", "alice")


async def test_no_trunk_is_told_before_anything_runs(tiny_weights: Path) -> None:
    async with running_client(tiny_weights, "127.0.0.1:1") as client:
        reply = await asked(client, ["x", "y"])
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "trunk_not_ready")
