"""Guesses change none of what a sampler chooses. Shapes: T rows, V vocabulary."""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from splitlearn_client.errors import BrokenNumbers
from splitlearn_client.sampling import Sampler, SamplingSettings
from splitlearn_client.structured.matcher import Matcher

LOGITS_TV = torch.tensor([[0.0, 1, 2, 3], [3.0, 0, 1, 2], [0.0, 3, 1, 2], [0.0, 1, 3, 2]])


def followed(settings: SamplingSettings, guesses: Sequence[int]) -> list[int]:
    return [choice.token for choice in Sampler(settings).follow(LOGITS_TV, [9, 9], guesses)]


def test_right_guesses_are_followed_by_the_token_behind_them() -> None:
    greedy = SamplingSettings(temperature=0)
    assert followed(greedy, (3, 0, 1)) == [3, 0, 1, 2]
    assert followed(greedy, (3, 0)) == [3, 0, 1]
    assert followed(greedy, ()) == [3]


@pytest.mark.parametrize(("guesses", "tokens"), [((0, 0, 1), [3]), ((3, 1, 1), [3, 0]), ((3, 0, 3), [3, 0, 1])])
def test_nothing_is_chosen_behind_a_wrong_guess(guesses: Sequence[int], tokens: list[int]) -> None:
    assert followed(SamplingSettings(temperature=0), guesses) == tokens


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(seed=3, temperature=2.0),
        SamplingSettings(seed=4, repetition_penalty=1.5, frequency_penalty=1.0, temperature=3.0),
        SamplingSettings(seed=5, presence_penalty=2.0, top_p=0.9, top_logprobs=2),
    ],
)
def test_guesses_change_no_draw_and_no_penalty(settings: SamplingSettings) -> None:
    plain = Sampler(settings)
    expected, ids = [], [0, 1]
    for _ in range(12):
        # a model whose logits depend on the last token alone
        expected.append(plain.choose(LOGITS_TV[ids[-1]], ids))
        ids.append(expected[-1].token)
    dice = random.Random(1)
    for share in (0.0, 0.5, 1.0):
        guessing, found, ids = Sampler(settings), [], [0, 1]
        while len(found) < 12:
            coming = [each.token for each in expected[len(found) : len(found) + 3]]
            guesses = [token if dice.random() < share else dice.randrange(4) for token in coming]
            choices = guessing.follow(torch.stack([LOGITS_TV[each] for each in (ids[-1], *guesses)]), ids, guesses)
            found += choices
            ids += [each.token for each in choices]
        assert found[:12] == expected


def test_an_error_behind_a_right_guess_is_the_next_step_s() -> None:
    broken = torch.stack([LOGITS_TV[0], torch.full((4,), torch.nan)])
    sampler = Sampler(SamplingSettings(temperature=0))
    assert [choice.token for choice in sampler.follow(broken, [9], [3])] == [3]
    with pytest.raises(BrokenNumbers):
        sampler.follow(broken[1:], [9, 3], [])


def test_behind_guesses_that_complete_a_grammar_nothing_is_chosen() -> None:
    mask = np.zeros(4, dtype=np.float32)
    matcher = SimpleNamespace(biases=(mask, mask), param="structured_outputs.regex")
    sampler = Sampler(SamplingSettings(temperature=0), matcher=cast("Matcher", matcher))
    assert [choice.token for choice in sampler.follow(LOGITS_TV, [9], [3, 0, 1])] == [3, 0]
