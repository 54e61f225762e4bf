"""With several ways to guess an answer is the same as with none, whichever of them is asked at which place."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from splitlearn_client.model_drafter import ModelDrafter
from splitlearn_client.speculation.draft_length import DraftLength
from splitlearn_client.speculation.speculator import Source
from support.guessing import all_choices, choices, knowing_and_not, needs_kernels, saved, split
from support.running_split import until

METHODS = ("ngram,draft_model", "shadow,ngram")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers have the shape of a shadow's."""
    return saved(tmp_path_factory.mktemp("qwen3"), "qwen3")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many drafts each kind of drafter made."""
    found: Counter[str] = Counter()
    fill = Source.fill

    async def noted(self: Source, draft: DraftLength, ids: Sequence[int]) -> tuple[int, ...]:
        tokens = await fill(self, draft, ids)
        found[type(self.drafter).__name__] += bool(tokens)
        return tokens

    monkeypatch.setattr(Source, "fill", noted)
    return found


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize(("method", "quantization"), [(METHODS[0], "none"), (METHODS[1], "int8")])
async def test_answers_are_the_same_whatever_the_drafters_guess(
    weights: Path, quantization: str, method: str, tmp_path: Path, made: Counter[str]
) -> None:
    same = {"quantization": quantization}
    async with split(weights, same, **same) as (_, client):
        expected = await all_choices(client)
    for model in knowing_and_not(method, weights, tmp_path):
        made.clear()
        settings: dict[str, Any] = {**same, "speculative_method": method, "speculative_model": model}
        async with split(weights, same, **settings) as (_, client):
            assert await all_choices(client) == expected
            assert client.value("spec_decode_num_accepted_tokens_total") > 0
        assert set(+made) == {"PromptLookup", "ModelDrafter"}


@needs_kernels
@pytest.mark.usefixtures("all_guesses_run")
@pytest.mark.parametrize("method", METHODS)
async def test_without_memory_for_the_model_the_lookup_guesses_alone(
    weights: Path, method: str, tmp_path: Path, made: Counter[str]
) -> None:
    async with split(weights) as (_, client):
        expected = await all_choices(client)
        row_bytes = 5 * client.service.connection.local_parts.bottom.row_bytes
    model, _ = knowing_and_not(method, weights, tmp_path)
    settings: dict[str, Any] = {"speculative_method": method, "speculative_model": model}
    # of the model that guesses too, whose five layers then have room for one of the answers at a time
    async with split(weights, **settings, kv_cache_memory_bytes=64 * row_bytes, max_waiting=99) as (_, client):
        assert await all_choices(client) == expected
    assert made["PromptLookup"] > 0


@needs_kernels
@pytest.mark.parametrize("method", METHODS)
async def test_an_answer_s_end_frees_what_its_drafters_hold(weights: Path, method: str, tmp_path: Path) -> None:
    model, _ = knowing_and_not(method, weights, tmp_path)
    settings: dict[str, Any] = {"speculative_method": method, "speculative_model": model}
    async with split(weights, **settings) as (_, client):
        for _ in range(3):
            await choices(client, [5, 6, 7, 5, 6, 7, 5, 6], {"ignore_eos": True})
        speculators = client.service.generator._speculators
        assert speculators is not None
        [engine] = [
            source.drafter._engine for source in speculators.new(9).sources if isinstance(source.drafter, ModelDrafter)
        ]
        await until(lambda: engine.pages.used == 0)
