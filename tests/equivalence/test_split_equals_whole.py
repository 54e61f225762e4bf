"""The mother of all tests: bottom, trunk and top together are the whole model."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from support.sessions import Chain, Whole, decode, load_parts, prompt
from support.tiny_models import ARCHITECTURES, N_LAYERS, random_model, save_sepweight, tiny_config

NEW_TOKENS = 64
PROMPT_LENGTHS = (1, 2, 17, 64, 300)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model_and_parts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, list[Part]]:
    model = random_model(tiny_config(request.param))
    weights = save_sepweight(tmp_path_factory.mktemp(request.param), model)
    return model, load_parts(weights, SplitPlan(1, 3, N_LAYERS))


@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_logits_and_greedy_tokens_equal_the_whole_model(
    model_and_parts: tuple[PreTrainedModel, list[Part]], length: int
) -> None:
    model, parts = model_and_parts
    split, whole = Chain(parts), Whole(model)
    ids = prompt(length)
    tokens, logits = decode(split, split.append(ids), NEW_TOKENS)
    expected_tokens, expected_logits = decode(whole, whole.append(ids), NEW_TOKENS)
    assert tokens == expected_tokens
    torch.testing.assert_close(torch.stack(logits), torch.stack(expected_logits), atol=1e-4, rtol=0)
    assert torch.stack(logits).std() > 0.01  # the comparison would mean nothing if all logits were alike


def test_sessions_that_take_turns_do_not_disturb_each_other(
    model_and_parts: tuple[PreTrainedModel, list[Part]],
) -> None:
    model, parts = model_and_parts
    prompts = [prompt(length) for length in (5, 33, 120)]
    sessions = [Chain(parts) for _ in prompts]
    logits = [session.append(ids) for session, ids in zip(sessions, prompts, strict=True)]
    tokens: list[list[int]] = [[] for _ in prompts]
    for _ in range(16):
        for i, session in enumerate(sessions):
            tokens[i].append(int(logits[i].argmax()))
            logits[i] = session.append(torch.tensor(tokens[i][-1:]))
    for i, ids in enumerate(prompts):
        whole = Whole(model)
        assert tokens[i] == decode(whole, whole.append(ids), 16)[0]


def test_a_prompt_in_chunks_equals_the_prompt_at_once(model_and_parts: tuple[PreTrainedModel, list[Part]]) -> None:
    model, parts = model_and_parts
    ids = prompt(90)
    split = Chain(parts)
    for chunk in (ids[:40], ids[40:41], ids[41:89]):
        split.append(chunk)
    torch.testing.assert_close(split.append(ids[89:]), Whole(model).append(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("plan", [SplitPlan(1, 4, 5), SplitPlan(1, 2, 5), SplitPlan(3, 4, 5), SplitPlan(2, 4, 5)])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_every_cut_gives_the_same_logits(tmp_path: Path, model_type: str, plan: SplitPlan) -> None:
    model = random_model(tiny_config(model_type))
    split = Chain(load_parts(save_sepweight(tmp_path, model), plan))
    whole = Whole(model)
    for ids in (prompt(30), prompt(1), prompt(7)):
        torch.testing.assert_close(split.append(ids), whole.append(ids), atol=1e-4, rtol=0)
