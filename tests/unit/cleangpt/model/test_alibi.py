"""Linear biases: the slopes of the paper, and columns whose product is the bias.

Shapes: H heads, T rows, d width of a head.
"""

import pytest
import torch

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from cleangpt.model.alibi import alibi_columns, alibi_slopes
from support.small_gpts import shaken


def test_slopes_of_eight_heads_halve_from_a_half_on() -> None:
    assert alibi_slopes(8) == [2.0**-k for k in range(1, 9)]


def test_slopes_of_twelve_heads_are_those_of_eight_and_every_other_one_of_sixteen() -> None:
    assert alibi_slopes(12) == [*alibi_slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    assert alibi_slopes(12)[8:] == alibi_slopes(16)[:8:2]


@pytest.mark.parametrize("n_head", range(1, 34))
def test_every_head_has_a_slope_of_its_own_between_zero_and_one(n_head: int) -> None:
    slopes = alibi_slopes(n_head)
    assert len(set(slopes)) == n_head
    assert all(0 < slope < 1 for slope in slopes)


def distances(positions_T: torch.Tensor) -> torch.Tensor:
    return (positions_T[None, :] - positions_T[:, None]).float()


@pytest.mark.parametrize("start", [0, 250, 3000])
def test_the_product_of_the_columns_is_the_slope_times_the_distance(start: int) -> None:
    positions_T, scaling = torch.arange(start, start + 300), 0.25
    columns = alibi_columns(positions_T[None], 6, scaling)
    bias_HTT = scaling * columns.query[0] @ columns.key[0].transpose(1, 2)
    expected_HTT = torch.tensor(alibi_slopes(6))[:, None, None] * distances(positions_T)
    torch.testing.assert_close(bias_HTT, expected_HTT, atol=1e-3, rtol=0)


def test_in_bfloat16_distances_stay_exact_and_only_the_slope_is_rounded() -> None:
    positions_T = torch.arange(60_000, 60_300)
    columns = alibi_columns(positions_T[None], 12, 64**-0.5)
    rounded_q, rounded_k = (rows[0].bfloat16().double() for rows in (columns.query, columns.key))
    rise_H = (torch.tensor(alibi_slopes(12)) * 8).bfloat16().double()
    expected_HTT = rise_H[:, None, None] * distances(positions_T).double()
    torch.testing.assert_close(rounded_q @ rounded_k.transpose(1, 2), expected_HTT, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("n_head", [4, 3])
def test_attention_weights_are_the_softmax_of_scores_and_bias(n_head: int) -> None:
    config = GPTConfig(block_size=16, vocab_size=30, n_layer=1, n_head=n_head, n_embd=24, alibi=True)
    model = shaken(get_model("Vanilla", config)).eval()
    model.set_attn_implementation("eager")
    ids = torch.arange(10)[None]
    (weights_BHTT,) = model(ids, output_attentions=True).attentions
    layer = model.model.layers[0]
    normed_TD = layer.attention_norm(model.model.embed_tokens(ids))[0]
    q_HTd, k_HTd, _ = layer.attention.query_key_value(normed_TD).view(10, 3, n_head, -1).permute(1, 2, 0, 3)
    slopes_H = torch.tensor(alibi_slopes(n_head))
    scores_HTT = q_HTd @ k_HTd.transpose(1, 2) / (24 // n_head) ** 0.5
    scores_HTT = scores_HTT + slopes_H[:, None, None] * distances(torch.arange(10))
    hidden_TT = torch.ones(10, 10, dtype=torch.bool).triu(1)
    expected_HTT = scores_HTT.masked_fill(hidden_TT, float("-inf")).softmax(-1)
    torch.testing.assert_close(weights_BHTT[0], expected_HTT)
