"""Shapes: V vocabulary."""

import itertools
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from splitlearn_client.errors import BadRequest, BrokenNumbers, GrammarFailed
from splitlearn_client.logits_processors import Beginning
from splitlearn_client.sampling import Sampler, SamplingSettings

LOGITS_V = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, 3.0, -4.0, 0.5])
IDS = [5, 1]
DRAWS = 1500
FEW = 400


def drawn(settings: SamplingSettings, n: int = DRAWS, logits_V: torch.Tensor = LOGITS_V) -> list[int]:
    sampler = Sampler(settings)
    return [sampler.choose(logits_V, IDS).token for _ in range(n)]


def expected(settings: SamplingSettings) -> torch.Tensor:
    """The distribution that transformers' own processors give, in the order of its `generate`."""
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
            TemperatureLogitsWarper(settings.temperature),
            TopKLogitsWarper(settings.top_k or len(LOGITS_V)),
            TopPLogitsWarper(settings.top_p),
            MinPLogitsWarper(settings.min_p),
        ]
    )
    return processors(torch.tensor([IDS]), LOGITS_V[None].clone())[0].softmax(dim=-1)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(seed=0),
        SamplingSettings(temperature=0.6, seed=0),
        SamplingSettings(temperature=1.8, seed=0),
        SamplingSettings(top_k=3, seed=0),
        SamplingSettings(top_p=0.8, seed=0),
        SamplingSettings(min_p=0.2, seed=0),
        SamplingSettings(repetition_penalty=1.7, seed=0),
        SamplingSettings(temperature=1.5, top_k=6, top_p=0.9, min_p=0.1, repetition_penalty=1.2, seed=0),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_transformers_processors_say(settings: SamplingSettings) -> None:
    expected_V = expected(settings)
    counts = Counter(drawn(settings))
    for token, probability in enumerate(expected_V.tolist()):
        deviation = (DRAWS * probability * (1 - probability)) ** 0.5
        assert abs(counts[token] - DRAWS * probability) <= 4 * deviation
    assert all(expected_V[token] > 0 for token in counts)


def test_top_k_leaves_the_k_most_likely() -> None:
    assert set(drawn(SamplingSettings(temperature=2.0, top_k=3, seed=1), FEW)) == {5, 0, 1}


def test_top_k_beyond_the_vocabulary_excludes_nothing() -> None:
    assert set(drawn(SamplingSettings(temperature=2.0, top_k=1000, seed=1), DRAWS)) == set(range(8))


def test_top_p_leaves_the_fewest_tokens_that_reach_it() -> None:
    probabilities = LOGITS_V.softmax(dim=-1)
    three = float(probabilities[[5, 0, 1]].sum())
    assert set(drawn(SamplingSettings(top_p=three - 0.01, seed=1), FEW)) == {5, 0, 1}
    assert set(drawn(SamplingSettings(top_p=three + 0.01, seed=1), FEW)) == {5, 0, 1, 2}


def test_min_p_leaves_tokens_at_least_that_likely_beside_the_likeliest() -> None:
    # odds against the best token are exp(logit - 3)
    assert set(drawn(SamplingSettings(min_p=0.3, seed=1), FEW)) == {5, 0}
    assert set(drawn(SamplingSettings(min_p=0.2, seed=1), FEW)) == {5, 0, 1}


@pytest.mark.parametrize("temperature", [0.0, 1e-7, 1e-40])
def test_at_temperature_0_the_most_likely_token_is_chosen_whatever_the_other_settings(temperature: float) -> None:
    assert set(drawn(SamplingSettings(temperature=temperature, top_p=0.1, min_p=0.9, seed=None), 20)) == {5}


def test_a_repetition_penalty_counts_for_greedy_choices_too() -> None:
    assert drawn(SamplingSettings(temperature=0, repetition_penalty=2.0), 1) == [0]


def test_one_allowed_token_is_the_greedy_one() -> None:
    narrow = [SamplingSettings(top_k=1), SamplingSettings(top_p=1e-6), SamplingSettings(min_p=1.0)]
    assert {token for settings in narrow for token in drawn(settings, 20)} == {5}


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    runs = {seed: drawn(SamplingSettings(seed=seed), 30) for seed in (0, 1, -5, 2**63 - 1)}
    assert all(drawn(SamplingSettings(seed=seed), 30) == tokens for seed, tokens in runs.items())
    assert all(a != b for a, b in itertools.combinations(runs.values(), 2))


def test_without_a_seed_two_requests_differ() -> None:
    assert drawn(SamplingSettings(), 60) != drawn(SamplingSettings(), 60)


def test_a_request_does_not_touch_the_random_numbers_of_others() -> None:
    torch.manual_seed(3)
    untouched = torch.rand(1)
    torch.manual_seed(3)
    drawn(SamplingSettings(seed=9), 5)
    assert torch.equal(torch.rand(1), untouched)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_an_error(bad: float, temperature: float) -> None:
    logits_V = LOGITS_V.clone()
    logits_V[3] = bad
    with pytest.raises(BrokenNumbers, match="splitlearn inspect --verify"):
        drawn(SamplingSettings(temperature=temperature), 1, logits_V)


def test_logits_that_rule_every_token_out_are_an_error() -> None:
    with pytest.raises(BrokenNumbers):
        drawn(SamplingSettings(), 1, torch.full((8,), -torch.inf))


def test_a_token_that_the_model_rules_out_is_neither_taken_nor_reported() -> None:
    logits_V = torch.full((8,), -torch.inf)
    logits_V[[2, 6]] = 0.0
    sampler = Sampler(SamplingSettings(temperature=2.0, seed=0, top_logprobs=5))
    choices = [sampler.choose(logits_V, IDS) for _ in range(40)]
    assert {choice.token for choice in choices} == {2, 6}
    assert {token for token, _ in choices[0].alternatives} == {2, 6}


def test_logprobs_are_of_the_distribution_before_any_setting() -> None:
    settings = SamplingSettings(
        temperature=0.3, top_k=4, top_p=0.9, min_p=0.05, repetition_penalty=1.5, seed=0, top_logprobs=3
    )
    logprobs_V = LOGITS_V.log_softmax(dim=-1)
    choice = Sampler(settings).choose(LOGITS_V, IDS)
    assert choice.logprob == pytest.approx(float(logprobs_V[choice.token]))
    assert [token for token, _ in choice.alternatives] == [5, 0, 1]
    assert [value for _, value in choice.alternatives] == pytest.approx(logprobs_V[[5, 0, 1]].tolist())


def test_logprobs_are_reported_only_if_requested_and_as_many_as_requested() -> None:
    def alternatives(wanted: int | None) -> int | None:
        choice = Sampler(SamplingSettings(top_logprobs=wanted)).choose(LOGITS_V, IDS)
        return None if choice.logprob is None else len(choice.alternatives)

    assert [alternatives(wanted) for wanted in (None, 0, 2, 20)] == [None, 0, 2, 8]


def test_logits_in_half_precision_are_sampled_in_full() -> None:
    half_V = LOGITS_V.bfloat16()
    choice = Sampler(SamplingSettings(temperature=0, top_logprobs=0)).choose(half_V, IDS)
    assert choice.logprob == pytest.approx(float(half_V.float().log_softmax(dim=-1)[5]), abs=1e-6)


def processed(settings: SamplingSettings, ids: list[int], n_prompt: int) -> torch.Tensor:
    """The logits that a token is drawn from."""
    scores_V = LOGITS_V.clone()
    for process in Sampler(settings, Beginning(n_prompt))._processors:
        process(ids, scores_V.numpy())
    return scores_V


def test_penalties_count_the_answers_tokens_and_not_the_prompts() -> None:
    settings = SamplingSettings(frequency_penalty=0.5, presence_penalty=0.25)
    ids = [5, 5, 1, 3, 3, 3, 0]
    expected_V = LOGITS_V.clone()
    # as in OpenAI's documentation: count * frequency + (count > 0) * presence
    for token, count in {3: 3, 0: 1}.items():
        expected_V[token] -= 0.5 * count + 0.25
    torch.testing.assert_close(processed(settings, ids, 3), expected_V)
    torch.testing.assert_close(processed(settings, ids, len(ids)), LOGITS_V)


@pytest.mark.parametrize("settings", [{"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": -2}])
def test_penalties_of_an_answer_that_grows_are_those_of_the_whole_answer(settings: dict[str, float]) -> None:
    growing = Sampler(SamplingSettings(temperature=0, **settings), Beginning(2))
    ids = [5, 1]
    for _ in range(20):
        fresh = Sampler(SamplingSettings(temperature=0, **settings), Beginning(2))
        token = growing.choose(LOGITS_V, ids).token
        assert fresh.choose(LOGITS_V, ids).token == token
        # rows that a part had lost are run again, and the token is chosen once more
        assert growing.choose(LOGITS_V, ids).token == token
        ids.append(token)
    assert (len(set(ids[2:])) == 1) == (settings.get("frequency_penalty", 0) < 0)


def test_a_bias_moves_a_token_and_a_large_one_decides() -> None:
    def taken(bias: dict[int, float], temperature: float = 0.0) -> set[int]:
        return set(drawn(SamplingSettings(temperature, logit_bias=tuple(bias.items()), seed=1), 50))

    assert taken({6: 100.0}, 1.0) == {6}
    assert 5 not in taken({5: -100.0}, 1.0)
    assert taken({0: 0.9, 1: 1.4}) == {5}
    assert taken({0: 1.1}) == {0}
    assert (
        Sampler(SamplingSettings(logit_bias=((6, 100.0),), top_logprobs=1)).choose(LOGITS_V, IDS).alternatives[0][0]
        == 5
    )


def test_no_end_token_comes_within_the_first_tokens() -> None:
    sampler = Sampler(SamplingSettings(temperature=0), Beginning(2, 2, frozenset({5, 0})))
    assert [sampler.choose(LOGITS_V, [5, 1, *[1] * n]).token for n in range(4)] == [1, 1, 5, 5]


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0),
        SamplingSettings(),
        SamplingSettings(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.1),
        SamplingSettings(top_p=0.95, min_p=0.05, frequency_penalty=0.2, logit_bias=((5, 1.0),)),
    ],
    ids=["greedy", "sampled", "filtered", "penalised"],
)
def test_a_choice_among_many_tokens_takes_little_time_of_the_device_thread(settings: SamplingSettings) -> None:
    ends = frozenset(range(0, 151_936, 148))
    sampler = Sampler(settings, Beginning(1, 100, ends))
    logits_V, ids, seconds = 4 * torch.randn(151_936), [5], []
    for _ in range(5):
        began = time.thread_time()
        ids.append(sampler.choose(logits_V, ids).token)
        seconds.append(time.thread_time() - began)
    assert not ends.intersection(ids[1:])
    # sorting all of them, drawing a random number for each, or comparing each with the ends takes 6 to 20 ms
    assert min(seconds) < 5e-3


def test_the_prompt_is_read_once_and_not_for_each_token() -> None:
    n_read = 0

    class Watched(list[int]):
        def __getitem__(self, of: Any) -> Any:
            nonlocal n_read
            found = super().__getitem__(of)
            n_read += len(found)
            return found

    ids = Watched([5, 1] * 50)
    sampler = Sampler(SamplingSettings(temperature=0, repetition_penalty=1.7), Beginning(100))
    for _ in range(10):
        fresh = Sampler(SamplingSettings(temperature=0, repetition_penalty=1.7), Beginning(100))
        token = sampler.choose(LOGITS_V, ids).token
        assert fresh.choose(LOGITS_V, list(ids)).token == token
        ids.append(token)
    assert n_read == len(ids) - 1


def test_a_model_with_no_other_token_than_one_that_may_not_come_is_an_error_of_the_request() -> None:
    logits_V = torch.full((8,), -torch.inf)
    logits_V[5] = 1.0
    sampler = Sampler(SamplingSettings(), Beginning(2, 2, frozenset({5})))
    with pytest.raises(BadRequest, match="no token could come next with min_tokens"):
        sampler.choose(logits_V, [5, 1])


def test_a_top_p_of_0_leaves_the_most_likely_token() -> None:
    assert set(drawn(SamplingSettings(temperature=2.0, top_p=0.0, seed=1), FEW)) == {5}


def only(*tokens: int, n: int = 8) -> Any:
    """A matcher that allows these tokens of `n`."""
    return SimpleNamespace(
        biases=(np.where(np.isin(np.arange(n), tokens), 0, -np.inf).astype(np.float32),),
        param="structured_outputs.regex",
    )


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0),
        SamplingSettings(seed=0),
        SamplingSettings(seed=0, top_k=2, top_p=0.9, min_p=0.1),
        SamplingSettings(seed=0, logit_bias=((0, 100.0), (5, 100.0)), repetition_penalty=2.0, presence_penalty=2.0),
    ],
    ids=["greedy", "sampled", "filtered", "biased"],
)
def test_only_what_is_allowed_is_chosen(settings: SamplingSettings) -> None:
    sampler = Sampler(settings, matcher=only(4, 6))
    assert {sampler.choose(LOGITS_V, IDS).token for _ in range(FEW)} <= {4, 6}


def test_log_probabilities_are_those_of_all_tokens() -> None:
    settings = SamplingSettings(temperature=0, top_logprobs=2)
    masked, free = (Sampler(settings, matcher=each).choose(LOGITS_V, IDS) for each in (only(5, 6), None))
    assert masked == free
    assert Sampler(settings, matcher=only(6)).choose(LOGITS_V, IDS).alternatives == free.alternatives


@pytest.mark.parametrize("n", [6, 12])
def test_the_mask_may_be_shorter_or_longer_than_the_logits(n: int) -> None:
    # 5 is the likeliest, and 7 the next one
    assert Sampler(SamplingSettings(temperature=0), matcher=only(4, 7, n=n)).choose(LOGITS_V, IDS).token == (
        4 if n == 6 else 7
    )


def test_that_nothing_is_allowed_is_an_error_with_the_field() -> None:
    with pytest.raises(GrammarFailed) as failed:
        Sampler(SamplingSettings(), matcher=only()).choose(LOGITS_V, IDS)
    assert failed.value.param == "structured_outputs.regex"


def test_the_logits_stay_as_they_were() -> None:
    before = LOGITS_V.clone()
    Sampler(SamplingSettings(), matcher=only(4)).choose(LOGITS_V, IDS)
    assert torch.equal(LOGITS_V, before)


def test_only_allowed_tokens_come_and_ids_without_a_logit_are_none() -> None:
    narrow = SamplingSettings(seed=1, allowed_token_ids=frozenset({4, 6, 99}), logit_bias=((5, 100.0),))
    assert set(drawn(narrow, FEW)) == {4, 6}
    assert drawn(SamplingSettings(temperature=0, allowed_token_ids=frozenset({1, 6})), 1) == [1]


@pytest.mark.parametrize(
    ("ids", "token"), [([3, 3], 5), ([3, 3, 5], 0), ([3, 3, 5, 0], 5), ([3, 3, 5, 5], 0), ([3, 5], 5), ([5, 5, 0], 5)]
)
def test_the_last_token_of_a_bad_word_does_not_come_behind_its_others_in_the_answer(ids: list[int], token: int) -> None:
    # 5 is the likeliest token, and 0 the next one; the prompt has two tokens
    sampler = Sampler(SamplingSettings(temperature=0, bad_words=((5, 5), (7, 7, 0), (99,))), Beginning(2))
    assert sampler.choose(LOGITS_V, ids).token == token


def test_tokens_of_the_prompt_without_a_logit_are_not_penalised() -> None:
    settings = SamplingSettings(temperature=0, repetition_penalty=2.0)
    assert Sampler(settings).choose(LOGITS_V, [5, 99]).token == 0


def test_a_bad_word_of_one_token_never_comes() -> None:
    assert 5 not in drawn(SamplingSettings(seed=1, bad_words=((5,),)), FEW)


@pytest.mark.parametrize(
    ("fields", "beginning", "param"),
    [
        ({"allowed_token_ids": frozenset({99})}, Beginning(2), "allowed_token_ids"),
        ({"bad_words": tuple((token,) for token in range(8))}, Beginning(2), "bad_words"),
        ({"allowed_token_ids": frozenset({5})}, Beginning(2, 2, frozenset({5})), "allowed_token_ids"),
    ],
)
def test_what_leaves_no_token_is_an_error_with_the_field(
    fields: dict[str, Any], beginning: Beginning, param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        Sampler(SamplingSettings(**fields), beginning).choose(LOGITS_V, IDS)
    assert refused.value.param == param


def test_a_grammar_that_allows_none_of_the_allowed_tokens_is_an_error_with_the_field() -> None:
    with pytest.raises(BadRequest) as refused:
        Sampler(SamplingSettings(allowed_token_ids=frozenset({5})), matcher=only(4)).choose(LOGITS_V, IDS)
    assert refused.value.param == "allowed_token_ids"
