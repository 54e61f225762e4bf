"""Models of cleangpt in three parts are what they are whole: at every cut, in chunks, and many at once."""

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from support.sessions import Chain, Together, Whole, decode, load_parts, prompt
from support.small_gpts import shaken
from support.tiny_models import CONTEXT, N_LAYERS, VOCABULARY, save_checkpoint, save_sepweight

CASES = [(name, alibi) for name in ("Vanilla", "SASP", "Factored") for alibi in (False, True)]
PLANS = [SplitPlan(first, last, N_LAYERS) for first, last in combinations(range(1, N_LAYERS), 2)]
NEW_TOKENS = 24


def model_of(name: str, alibi: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    # no power of two, so that the slopes of ALiBi are of both kinds
    sizes = GPTConfig(
        block_size=CONTEXT, vocab_size=VOCABULARY, n_layer=N_LAYERS, n_head=6, n_embd=48, alibi=alibi, eos_token_id=2
    )
    return shaken(get_model(name, sizes)).eval()


@pytest.fixture(scope="module", params=CASES, ids=str)
def model_and_weights(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Path]:
    model = model_of(*request.param)
    return model, save_sepweight(tmp_path_factory.mktemp("cleangpt"), model)


@pytest.fixture(scope="module")
def model_and_parts(model_and_weights: tuple[PreTrainedModel, Path]) -> tuple[PreTrainedModel, list[Part]]:
    model, weights = model_and_weights
    return model, load_parts(weights, SplitPlan(1, 3, N_LAYERS))


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.01  # the comparison would mean nothing if all logits were alike


@pytest.mark.parametrize("length", [1, 17, 300])
def test_logits_and_greedy_tokens_equal_the_whole_model(
    model_and_parts: tuple[PreTrainedModel, list[Part]], length: int
) -> None:
    model, parts = model_and_parts
    split, whole, ids = Chain(parts), Whole(model), prompt(length)
    tokens, logits = decode(split, split.append(ids), NEW_TOKENS)
    expected_tokens, expected_logits = decode(whole, whole.append(ids), NEW_TOKENS)
    assert tokens == expected_tokens
    same(torch.stack(logits), torch.stack(expected_logits))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.layers)
def test_every_cut_gives_the_same_logits(model_and_weights: tuple[PreTrainedModel, Path], plan: SplitPlan) -> None:
    model, weights = model_and_weights
    split, whole = Chain(load_parts(weights, plan)), Whole(model)
    for ids in (prompt(30), prompt(1), prompt(7)):
        same(split.append(ids), whole.append(ids))


def test_a_prompt_in_chunks_and_rows_taken_back_equal_the_prompt_at_once(
    model_and_parts: tuple[PreTrainedModel, list[Part]],
) -> None:
    model, parts = model_and_parts
    ids, split = prompt(90), Chain(parts)
    for chunk in (ids[:40], ids[40:41], ids[41:70]):
        split.append(chunk)
    split.truncate(50)
    same(split.append(ids[50:]), Whole(model).append(ids))


def test_sessions_run_in_batches_and_say_what_each_says_alone(
    model_and_parts: tuple[PreTrainedModel, list[Part]],
) -> None:
    model, parts = model_and_parts
    together = Together(parts, 3)
    assert all(runner.is_batched for runner in together.runners)
    wholes = [Whole(model) for _ in range(3)]
    steps = [(5, 33, 120), (40, 1, 1), (1, 1, 1), (2, 60, 7), (1, 1, 1)]
    for lengths in steps:
        found = together.append({n: prompt(length) for n, length in enumerate(lengths)})
        for n, length in enumerate(lengths):
            same(found[n], wholes[n].append(prompt(length)))


def test_a_cut_of_the_factored_model_sends_both_streams(tmp_path: Path) -> None:
    model = model_of("Factored", False)
    bottom, trunk, _ = load_parts(save_sepweight(tmp_path, model), SplitPlan(2, 3, N_LAYERS))
    rows_TD = bottom(prompt(6), 0, bottom.new_cache())
    assert rows_TD.shape == (6, 2 * 48)
    assert bottom.hidden_size == trunk.hidden_size == 2 * 48


def test_a_fresh_process_converts_one_and_a_part_in_bfloat16_runs(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "sasp", model_of("SASP", True))
    asked = f"import sys; from splitlearn_cli.__main__ import main; sys.exit(main({['convert', str(checkpoint)]}"
    command = [sys.executable, "-c", f"{asked} + ['--out', {str(tmp_path / 'out')!r}, '--dtype', 'bfloat16']))"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    split = Chain(load_parts(tmp_path / "out", SplitPlan(1, 4, N_LAYERS)))
    exact = Whole(model_of("SASP", True)).append(prompt(40))
    rounded = split.append(prompt(40)).float()
    assert torch.corrcoef(torch.stack([rounded, exact]))[0, 1] > 0.99
