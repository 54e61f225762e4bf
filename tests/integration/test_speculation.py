"""With guesses an answer is the same as without, whatever is guessed; it takes fewer trips to the trunk."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splitlearn.engine.speculation import MAX_SESSION_ROWS, SPECULATION
from splitlearn_comm.replicas.health import ReplicaState
from support.guessing import (
    NEW_TOKENS,
    PROMPTS,
    all_choices,
    choices,
    greedy_text,
    knowing_and_not,
    needs_kernels,
    saved,
    split,
)
from support.informed import Informed
from support.running_split import running_client, running_trunk, until
from support.shadows import exported, trunk_as_shadow
from support.tiny_models import VOCABULARY

N_LOSSES = 8


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def like_shadows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers have the shape of a shadow's."""
    return saved(tmp_path_factory.mktemp("qwen3"), "qwen3")


def informed(monkeypatch: pytest.MonkeyPatch, texts: Sequence[Sequence[int]], share: float) -> None:
    """From now on clients guess by these texts."""
    monkeypatch.setattr("splitlearn_client.app.PromptLookup", lambda _most_rows: Informed(texts, share, VOCABULARY))


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize("quantization", ["none", "int8"])
async def test_answers_of_all_kinds_are_the_same_with_guesses_and_without(weights: Path, quantization: str) -> None:
    same = {"quantization": quantization}
    async with split(weights, same, **same) as (_, client):
        expected = await all_choices(client)
    async with split(weights, same, **same, speculative_method="ngram") as (_, client):
        assert await all_choices(client) == expected
        assert client.value("spec_decode_num_accepted_tokens_total") > 0
        drafted = client.value("spec_decode_num_draft_tokens_total")
        assert drafted > client.value("spec_decode_num_accepted_tokens_total")


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize("share", [0.0, 0.6, 0.9, 1.0])
async def test_answers_are_the_same_however_many_guesses_are_right_and_while_the_trunk_loses_rows(
    weights: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with split(weights) as (_, client):
        texts = [await greedy_text(client, prompt) for prompt in PROMPTS]
        expected = await all_choices(client)
    informed(monkeypatch, texts, share)
    async with split(weights, speculative_method="ngram") as (trunk, client):
        asked = asyncio.create_task(all_choices(client))
        for _ in range(N_LOSSES):
            # the rows of all sessions that do not run just now
            await until(lambda: trunk.trunk.engine.n_running > len(PROMPTS) or asked.done())
            trunk.trunk.engine.expire(0.0)
            await client.http.get("/health")
        assert await asked == expected
        assert client.value("num_replays_total") > 0
        assert client.value("spec_decode_num_draft_tokens_total") > 0
        assert (client.value("spec_decode_num_accepted_tokens_total") > 0) == (share > 0)


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
async def test_right_guesses_save_trips(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with split(weights) as (_, client):
        text = await greedy_text(client, PROMPTS[1])
    informed(monkeypatch, [text], 1.0)
    async with split(weights, speculative_method="ngram") as (trunk, client):
        reply = (await client.complete(prompt=PROMPTS[1], max_tokens=NEW_TOKENS, ignore_eos=True)).json()
        told = reply["splitlearn"]
        # each token came of a trip or of a guess; the first trip of a service has none, and no guess is the last token
        assert told["draft_tokens"] == told["accepted_draft_tokens"] > NEW_TOKENS / 3
        assert trunk.value("iteration_tokens_count") == NEW_TOKENS - told["accepted_draft_tokens"]
        assert client.value("inter_token_latency_seconds_count") == NEW_TOKENS - 1


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
async def test_behind_a_stop_in_the_middle_of_right_guesses_the_cached_rows_are_the_answer_s(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with split(weights) as (_, client):
        text = await greedy_text(client, PROMPTS[1])
        stops = {"stop_token_ids": [text[len(PROMPTS[1]) + 9]]}
        expected = await choices(client, PROMPTS[1], stops)
        longer = await choices(client, text[:-2], {"logprobs": 3})
    informed(monkeypatch, [text], 1.0)
    async with split(weights, speculative_method="ngram") as (_, client):
        for _ in range(2):
            assert await choices(client, PROMPTS[1], stops) == expected
        assert await choices(client, text[:-2], {"logprobs": 3}) == longer
        assert client.value("prefix_cache_hits_total") > 0


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize("where", ["trunk", "client"])
async def test_guesses_never_ask_for_more_rows_than_a_part_holds(
    weights: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacity = 32
    async with split(weights) as (trunk, client):
        text = await greedy_text(client, PROMPTS[2])
        expected = await choices(client, PROMPTS[2], {"ignore_eos": True})
        parts = client.service.connection.local_parts
        row_bytes = {
            "trunk": trunk.trunk.engine.row_bytes,
            # bottom and top get half of it each
            "client": 2 * max(parts.bottom.row_bytes, parts.top.row_bytes),
        }
    few = {"kv_cache_memory_bytes": capacity * row_bytes[where]}
    # wrong guesses are no end of the answer, and reach beyond it
    informed(monkeypatch, [text], 0.6)
    # the answer ends where the memory does
    stop = {"stop_token_ids": [text[capacity]], "max_tokens": 200, "ignore_eos": True}
    assert text.index(text[capacity], len(PROMPTS[2])) == capacity
    settings = {"trunk": (few, {}), "client": ({}, few)}[where]
    async with split(weights, settings[0], **settings[1], speculative_method="ngram") as (_, client):
        for _ in range(2):
            reply = await client.complete(prompt=PROMPTS[2], **stop)
            assert reply.status_code == 200, reply.text
            assert expected[0]["text"].startswith(reply.json()["choices"][0]["text"])
            assert reply.json()["usage"]["completion_tokens"] == capacity - len(PROMPTS[2]) + 1
        assert client.value("spec_decode_num_accepted_tokens_total") > 0


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
async def test_what_did_not_run_as_one_trip_teaches_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with split(weights) as (_, client):
        text = await greedy_text(client, PROMPTS[1])
    informed(monkeypatch, [text], 1.0)
    async with split(weights, speculative_method="ngram", enable_prefix_caching=False) as (_, client):
        await choices(client, PROMPTS[1], {})
        before = client.value("spec_decode_num_draft_tokens_total")
        # the second token of each answer runs the whole prompt again, and behind the third no guess is of use
        reply = await client.complete(prompt=PROMPTS[1], max_tokens=3, n=4, ignore_eos=True)
        assert reply.json()["splitlearn"]["draft_tokens"] == 0
        assert client.value("spec_decode_num_draft_tokens_total") == before


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize("method", ["ngram", "shadow", "ngram,shadow"])
async def test_a_worker_that_dies_between_guesses_costs_no_token(
    like_shadows: Path, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = like_shadows
    async with split(weights) as (_, client):
        texts = [await greedy_text(client, prompt) for prompt in PROMPTS]
        expected = await all_choices(client)
    settings: dict[str, Any] = {"speculative_method": method}
    if "shadow" in method:
        settings["speculative_model"] = exported(trunk_as_shadow(weights), tmp_path / "shadow", weights)
    informed(monkeypatch, texts, 0.8)
    async with (
        running_trunk(weights) as dying,
        running_trunk(weights) as other,
        running_client(weights, f"{dying.address},{other.address}", **settings) as client,
    ):
        await until(lambda: client.service.connection.replicas.states()[ReplicaState.READY] == 2)
        asked = asyncio.create_task(all_choices(client))
        await until(lambda: dying.trunk.engine.n_running > 1)
        await dying.server.stop()
        assert await asked == expected
        assert client.value("failovers_total", reason="Unreachable") > 0
        assert client.value("spec_decode_num_accepted_tokens_total") > 0


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
async def test_guesses_go_through_a_chain(weights: Path) -> None:
    async with split(weights, {"layers": "1-4"}) as (_, client):
        expected = await all_choices(client)
    async with (
        running_trunk(weights, "2-4") as last,
        running_trunk(weights, "1-2", next=last.address, insecure=True) as first,
        running_client(weights, first.address, speculative_method="ngram") as client,
    ):
        await client.ready()
        assert await all_choices(client) == expected
        assert client.value("spec_decode_num_accepted_tokens_total") > 0


@needs_kernels
async def test_a_chain_allows_what_its_weakest_stage_allows_and_holds_what_its_smallest_holds(weights: Path) -> None:
    async with running_trunk(weights, "2-4") as last:
        servicer = last.trunk.servicer
        told = {**servicer._info.attributes, SPECULATION: "rounded", MAX_SESSION_ROWS: "77"}
        servicer._info = replace(servicer._info, attributes=told)
        async with (
            running_trunk(weights, "1-2", next=last.address, insecure=True) as first,
            running_client(weights, first.address) as client,
        ):
            await client.ready()
            found = (await first.client.service_info()).attributes
            assert first.trunk.info.attributes[SPECULATION] == "exact"
            assert (found[SPECULATION], found[MAX_SESSION_ROWS]) == ("rounded", "77")


@pytest.mark.usefixtures("all_guesses_run")
async def test_where_guesses_would_change_how_rows_are_rounded_nothing_is_guessed_unless_it_is_allowed(
    tiny_weights: Path,
) -> None:
    async with running_trunk(tiny_weights) as trunk:
        for allowed in (False, True):
            settings: dict[str, Any] = {"speculative_method": "ngram", "speculative_rounding": allowed}
            async with running_client(tiny_weights, trunk.address, **settings) as client:
                await client.ready()
                for prompt in PROMPTS:
                    await choices(client, prompt, {"ignore_eos": True})
                assert (client.value("spec_decode_num_drafts_total") > 0) is allowed


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("method", ["draft_model", "shadow"])
async def test_answers_are_the_same_whatever_a_model_guesses(
    like_shadows: Path, quantization: str, method: str, tmp_path: Path
) -> None:
    weights, same = like_shadows, {"quantization": quantization}
    async with split(weights, same, **same) as (_, client):
        expected = await all_choices(client)
    shares = []
    for model in knowing_and_not(method, weights, tmp_path):
        settings: dict[str, Any] = {**same, "speculative_method": method, "speculative_model": model}
        async with split(weights, same, **settings) as (_, client):
            assert await all_choices(client) == expected
            n_right, n_run = (client.value(f"spec_decode_num_{name}_tokens_total") for name in ("accepted", "draft"))
            shares.append(n_right / n_run)
    assert shares[0] > 3 * shares[1]


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize("method", ["draft_model", "shadow"])
async def test_without_memory_for_the_model_that_guesses_nothing_is_guessed(
    like_shadows: Path, method: str, tmp_path: Path
) -> None:
    weights = like_shadows
    async with split(weights) as (_, client):
        expected = await all_choices(client)
        row_bytes = 5 * client.service.connection.local_parts.bottom.row_bytes
    # of that model too, whose five layers then have room for one of the answers at a time
    model, _ = knowing_and_not(method, weights, tmp_path)
    settings: dict[str, Any] = {"speculative_method": method, "speculative_model": model}
    async with split(weights, **settings, kv_cache_memory_bytes=64 * row_bytes, max_waiting=99) as (_, client):
        assert await all_choices(client) == expected
