"""Shapes: V vocabulary."""

from typing import Final

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from splitlearn_client.drawing import Filters, draw
from splitlearn_client.logits_processors import Floats

FILTERS: Final = (
    Filters(),
    Filters(top_k=1),
    Filters(top_k=20),
    Filters(top_k=10**6),
    Filters(top_p=0.05),
    Filters(top_p=0.8),
    Filters(top_p=0.999_99),
    Filters(min_p=0.1),
    Filters(top_k=50, top_p=0.8),
    Filters(top_k=50, min_p=0.2),
    Filters(top_p=0.9, min_p=0.05),
    Filters(top_k=200, top_p=0.95, min_p=0.01),
)
LAST_SHARE: Final = 1 - 2.0**-53


def scores(spread: float, n_tokens: int = 5000, seed: int = 0) -> Floats:
    """The larger the spread, the surer the model."""
    return (spread * np.random.default_rng(seed).standard_normal(n_tokens)).astype(np.float32)


def expected(scores_V: Floats, filters: Filters) -> np.ndarray:
    """The probabilities that transformers' filters leave, each of which has seen all tokens."""
    processors = LogitsProcessorList()
    if filters.top_k:
        processors.append(TopKLogitsWarper(filters.top_k))
    processors.append(TopPLogitsWarper(filters.top_p))
    processors.append(MinPLogitsWarper(filters.min_p))
    left_1V = processors(torch.empty(1, 0, dtype=torch.long), torch.from_numpy(scores_V)[None])
    return left_1V[0].double().softmax(dim=-1).numpy()


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_each_token_has_the_share_that_transformers_filters_give_it(filters: Filters, spread: float) -> None:
    scores_V = scores(spread)
    expected_V = expected(scores_V, filters)
    ends = np.cumsum(expected_V)
    # sums are rounded, so tokens of next to no probability have no middle that is theirs for certain
    tokens = [int(token) for token in np.flatnonzero(expected_V > 1e-5)]
    assert tokens
    for token in tokens[:: max(1, len(tokens) // 200)]:
        assert draw(scores_V, filters, float(ends[token] - expected_V[token] / 2)) == token


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_first_and_the_last_share_give_the_first_and_the_last_token_that_is_left(filters: Filters) -> None:
    scores_V = scores(3.0)
    # more than a block of tokens that may not come, at either end
    scores_V[:600], scores_V[-600:] = -np.inf, -np.inf
    left = np.flatnonzero(expected(scores_V, filters))
    assert (draw(scores_V, filters, 0.0), draw(scores_V, filters, LAST_SHARE)) == (left[0], left[-1])


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_only_token_that_may_come_is_drawn(filters: Filters) -> None:
    scores_V = np.full(5000, -np.inf, dtype=np.float32)
    scores_V[4321] = -7.0
    assert {draw(scores_V, filters, share) for share in (0.0, 0.5, LAST_SHARE)} == {4321}


def test_tokens_as_likely_as_the_last_of_top_k_stay() -> None:
    scores_V = np.array([1.0, 2.0, 1.0, 0.0, 1.0], dtype=np.float32)
    drawn = {draw(scores_V, Filters(top_k=2), share) for share in np.linspace(0, LAST_SHARE, 50)}
    assert drawn == {0, 1, 2, 4}


def test_where_all_tokens_are_alike_each_is_drawn() -> None:
    scores_V = np.zeros(1500, dtype=np.float32)
    assert [draw(scores_V, Filters(), (n + 0.5) / 1500) for n in range(1500)] == list(range(1500))


def test_scores_far_from_zero_do_not_overflow() -> None:
    for shift in (-1e5, 1e5):
        assert draw(np.array([0.0, 3.0, 1.0], dtype=np.float32) + np.float32(shift), Filters(top_p=0.9), 0.5) == 1


def test_a_choice_leaves_the_scores_as_they_were() -> None:
    scores_V = scores(1.0)
    before = scores_V.copy()
    for filters in FILTERS:
        draw(scores_V, filters, 0.3)
    assert np.array_equal(scores_V, before)
