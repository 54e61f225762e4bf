"""Every architecture with every option, converted and cut into three parts, is what it is whole."""

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import OWN_OPTIONS, GPTConfig
from cleangpt.model import get_model
from splitlearn.model.part import Part
from splitlearn.model.plan import SplitPlan
from support.sessions import Chain, Together, Whole, decode, load_parts, prompt
from support.small_gpts import ARCHITECTURES, label, shaken
from support.tiny_models import CONTEXT, N_LAYERS, VOCABULARY, save_sepweight


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=label)
def model_and_parts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, list[Part]]:
    sizes = {"block_size": CONTEXT, "vocab_size": VOCABULARY, "n_layer": N_LAYERS, "n_head": 4, "n_embd": 32}
    config = GPTConfig(**sizes, eos_token_id=2, **request.param)
    model = shaken(get_model(config.model_type, config)).eval()
    weights = save_sepweight(tmp_path_factory.mktemp("cut"), model)
    return model, load_parts(weights, SplitPlan(1, 3, N_LAYERS))


def test_greedy_tokens_are_those_of_the_whole_model(model_and_parts: tuple[PreTrainedModel, list[Part]]) -> None:
    model, parts = model_and_parts
    split, whole, ids = Chain(parts), Whole(model), prompt(40)
    tokens, logits = decode(split, split.append(ids), 16)
    expected_tokens, expected_logits = decode(whole, whole.append(ids), 16)
    assert tokens == expected_tokens
    torch.testing.assert_close(torch.stack(logits), torch.stack(expected_logits), atol=1e-4, rtol=0)


def test_sessions_in_one_batch_say_what_each_says_alone(model_and_parts: tuple[PreTrainedModel, list[Part]]) -> None:
    model, parts = model_and_parts
    together = Together(parts, 3)
    assert all(runner.is_batched for runner in together.runners)
    wholes = [Whole(model) for _ in range(3)]
    for lengths in ((5, 33, 70), (1, 1, 1), (20, 1, 7), (1, 1, 1)):
        found = together.append({n: prompt(length) for n, length in enumerate(lengths)})
        for n, length in enumerate(lengths):
            torch.testing.assert_close(found[n], wholes[n].append(prompt(length)), atol=1e-4, rtol=0)


def test_a_part_has_the_options_of_the_whole_model(model_and_parts: tuple[PreTrainedModel, list[Part]]) -> None:
    model, parts = model_and_parts
    for part in parts:
        for option in OWN_OPTIONS:
            assert getattr(part.config, option, None) == getattr(model.config, option, None)
