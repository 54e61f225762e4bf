"""Shapes: T rows, V vocabulary."""

import pytest
import torch

from splitlearn_client.errors import BrokenNumbers
from splitlearn_client.prompt_scores import PromptScores
from splitlearn_client.sampling import Choice

IDS = [4, 1, 7, 7, 0]
LOGITS_TV = torch.randn(len(IDS), 8, generator=torch.Generator().manual_seed(0))


def scored(pieces: list[int], n_alternatives: int = 2, logits_TV: torch.Tensor = LOGITS_TV) -> list[Choice]:
    scores, position = PromptScores(IDS, n_alternatives), 0
    for n_rows in pieces:
        scores.add(position, logits_TV[position : position + n_rows])
        position += n_rows
    return scores.choices()


def test_each_token_is_scored_by_the_row_before_it() -> None:
    logprobs_TV = LOGITS_TV.log_softmax(dim=-1)
    choices = scored([len(IDS)])
    assert [choice.token for choice in choices] == IDS[1:]
    for row, choice in enumerate(choices):
        order = logprobs_TV[row].argsort(descending=True).tolist()
        assert choice.logprob == pytest.approx(float(logprobs_TV[row, choice.token]))
        assert choice.rank == order.index(choice.token) + 1
        assert [token for token, _ in choice.alternatives] == order[:2]


@pytest.mark.parametrize("pieces", [[1, 1, 1, 1, 1], [3, 2], [4, 1], [2, 3]])
def test_it_does_not_matter_how_the_rows_are_cut(pieces: list[int]) -> None:
    for one, other in zip(scored(pieces), scored([len(IDS)]), strict=True):
        assert (one.token, one.rank) == (other.token, other.rank)
        assert one.logprob == pytest.approx(other.logprob)


def test_rows_that_come_again_are_scored_once() -> None:
    scores = PromptScores(IDS, 0)
    scores.add(0, LOGITS_TV[:3])
    scores.add(0, LOGITS_TV)
    assert len(scores.choices()) == len(IDS) - 1
    assert scores.choices()[0].alternatives == ()


def test_half_precision_is_scored_in_full() -> None:
    expected = LOGITS_TV.bfloat16().float().log_softmax(dim=-1)[0, IDS[1]]
    assert scored([len(IDS)], logits_TV=LOGITS_TV.bfloat16())[0].logprob == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    logits_TV = LOGITS_TV.clone()
    logits_TV[2, 3] = bad
    with pytest.raises(BrokenNumbers):
        scored([len(IDS)], logits_TV=logits_TV)


def test_a_token_that_the_model_rules_out_is_never_an_alternative() -> None:
    logits_TV = torch.full((len(IDS), 8), -torch.inf)
    logits_TV[:, [1, 7]] = 0.0
    choices = scored([len(IDS)], 5, logits_TV)
    assert {token for choice in choices for token, _ in choice.alternatives} == {1, 7}
    # JSON has no infinity: OpenAI and vLLM send this number
    assert choices[-1].logprob == -9999.0


def test_a_token_that_the_model_has_no_logit_for_is_as_unlikely_as_one_that_it_rules_out() -> None:
    choices = scored([len(IDS)], 1, LOGITS_TV[:, :5])
    assert [(choice.logprob, choice.rank) for choice in choices if choice.token == 7] == [(-9999.0, 6)] * 2


@pytest.mark.parametrize("n_alternatives", [1, 20])
@pytest.mark.parametrize("vocabulary", [256, 5120, 12_345])
def test_the_likeliest_tokens_of_a_large_vocabulary_are_those_of_all_blocks(
    vocabulary: int, n_alternatives: int
) -> None:
    logits_TV = torch.randn(len(IDS), vocabulary, generator=torch.Generator().manual_seed(1))
    # several in one block, in the last whole one and behind it
    logits_TV[0, 3:9] = torch.arange(6.0) + 9
    logits_TV[1, -3:] = torch.arange(3.0) + 9
    for choice, logprobs_V in zip(scored([5], n_alternatives, logits_TV), logits_TV.log_softmax(dim=-1), strict=False):
        values_K, indices_K = logprobs_V.topk(n_alternatives)
        assert [token for token, _ in choice.alternatives] == indices_K.tolist()
        assert [value for _, value in choice.alternatives] == pytest.approx(values_K.tolist(), abs=1e-5)


def test_few_rows_of_a_large_vocabulary_run_at_once_and_never_none() -> None:
    assert PromptScores.rows_at_once(151_936) == 55
    assert PromptScores.rows_at_once(1 << 30) == 1
