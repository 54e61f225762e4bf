"""How many of the likeliest tokens choices are made among. V vocabulary."""

import pytest
import torch

from splitlearn_client.choosing import Choosing
from splitlearn_client.sampling import Sampler, SamplingSettings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SamplingSettings(temperature=0), 1),
        (SamplingSettings(temperature=0, top_k=7), 1),
        (SamplingSettings(temperature=0.7, top_k=7, top_p=0.8, min_p=0.1), 7),
        (SamplingSettings(temperature=0.7), None),
        (SamplingSettings(temperature=0.7, top_p=0.5), None),
        (SamplingSettings(temperature=0, top_logprobs=0), None),
        (SamplingSettings(temperature=0, repetition_penalty=1.1), None),
        (SamplingSettings(temperature=0, logit_bias=((1, 1.0),)), None),
        (SamplingSettings(temperature=0, allowed_token_ids=frozenset({1})), None),
    ],
)
def test_a_sampler_says_how_many_of_the_likeliest_it_chooses_among(
    settings: SamplingSettings, expected: int | None
) -> None:
    assert Sampler(settings).n_likeliest == expected


@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_logits_beyond_the_likeliest_change_no_choice(temperature: float) -> None:
    settings = SamplingSettings(temperature=temperature, top_k=5, top_p=0.9, min_p=0.01, seed=3)
    whole, cut = Sampler(settings), Sampler(settings)
    for seed in range(50):
        logits_V = torch.randn(200, generator=torch.Generator().manual_seed(seed)).bfloat16()
        some_V = logits_V.masked_fill(logits_V < logits_V.topk(cut.n_likeliest or 200).values[-1], -torch.inf)
        assert whole.choose(logits_V, [1]) == cut.choose(some_V, [1])


def test_samplers_of_one_prompt_choose_among_as_many_as_any_of_them_needs() -> None:
    few, more = Sampler(SamplingSettings(temperature=0)), Sampler(SamplingSettings(top_k=9))
    assert Choosing([1], [few, more]).n_likeliest == 9
    assert Choosing([1], [few, Sampler(SamplingSettings())]).n_likeliest is None
    assert Choosing([1], []).n_likeliest is None
