"""Shapes: T rows, D hidden size."""

from typing import get_args

import pytest
import torch

from splitlearn_client.errors import BrokenNumbers
from splitlearn_client.pooling import Pooler, needs_all_rows, shortened
from splitlearn_client.pooling_config import Mode
from support.embedding_models import POOLED

HIDDEN_TD = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
MODES: tuple[Mode, ...] = get_args(Mode)


def pooled(mode: Mode, pieces: list[tuple[int, int]], n_skipped: int = 0) -> torch.Tensor:
    """What comes of the rows from one position to another, and so on."""
    pooler = Pooler(mode, n_skipped)
    for start, end in pieces:
        pooler.add(start, HIDDEN_TD[start:end])
    return pooler.vector()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 7)],
        [(i, i + 1) for i in range(7)],
        [(0, 3), (3, 7)],
        # a replica died, or a part lost its rows: they come again, cut in another way
        [(0, 3), (3, 5), (0, 4), (4, 7)],
        [(0, 4), (2, 7)],
        [(0, 7), (0, 7)],
    ],
)
def test_it_does_not_matter_how_the_rows_are_cut_and_those_that_come_again_count_once(
    mode: Mode, pieces: list[tuple[int, int]]
) -> None:
    torch.testing.assert_close(pooled(mode, pieces), POOLED[mode](HIDDEN_TD), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[(0, 7)], [(0, 2), (2, 5), (5, 7)], [(0, 3), (3, 7)]])
def test_rows_of_the_prompt_are_left_out(pieces: list[tuple[int, int]]) -> None:
    rest_TD = HIDDEN_TD[3:]
    weights_T = torch.tensor([4.0, 5.0, 6.0, 7.0])
    expected = {
        "cls": rest_TD[0],
        "lasttoken": HIDDEN_TD[-1],
        "max": rest_TD.max(dim=0).values,
        "mean": rest_TD.mean(dim=0),
        "mean_sqrt_len_tokens": rest_TD.sum(dim=0) / 2,
        # as in sentence-transformers, a row's place in the whole text is its weight
        "weightedmean": weights_T @ rest_TD / weights_T.sum(),
    }
    for mode in MODES:
        torch.testing.assert_close(pooled(mode, pieces, 3), expected[mode], atol=1e-6, rtol=1e-5)


def test_only_the_last_token_can_do_with_cached_rows() -> None:
    assert [mode for mode in MODES if not needs_all_rows(mode)] == ["lasttoken"]
    torch.testing.assert_close(pooled("lasttoken", [(4, 7)]), HIDDEN_TD[-1])


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_any_dtype_become_a_vector_in_fp32(mode: Mode) -> None:
    pooler = Pooler(mode)
    pooler.add(0, HIDDEN_TD.bfloat16())
    assert pooler.vector().dtype is torch.float32
    torch.testing.assert_close(pooler.vector(), POOLED[mode](HIDDEN_TD.bfloat16().float()), atol=1e-2, rtol=1e-2)


def test_a_pooler_keeps_no_memory_of_the_rows() -> None:
    rows_TD = torch.randn(1000, 5)
    for mode in MODES:
        pooler = Pooler(mode)
        pooler.add(0, rows_TD)
        kept = [value for value in vars(pooler).values() if isinstance(value, torch.Tensor)]
        assert [each.untyped_storage().nbytes() for each in kept] <= [8 * 5]


@pytest.mark.parametrize("mode", ["mean", "max", "weightedmean"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_numbers_are_an_error(mode: Mode, bad: float) -> None:
    broken_TD = HIDDEN_TD.clone()
    broken_TD[3, 2] = bad
    pooler = Pooler(mode)
    pooler.add(0, broken_TD)
    with pytest.raises(BrokenNumbers, match="hidden states hold NaN or infinity"):
        pooler.vector()


def test_a_vector_is_shortened_and_has_length_1_again_if_it_had() -> None:
    vector_D = HIDDEN_TD[0]
    assert torch.equal(shortened(vector_D, None, is_normalized=False), vector_D)
    assert torch.equal(shortened(vector_D, 2, is_normalized=False), vector_D[:2])
    torch.testing.assert_close(shortened(vector_D, 2, is_normalized=True), vector_D[:2] / vector_D[:2].norm())
    assert torch.equal(shortened(torch.zeros(3), None, is_normalized=True), torch.zeros(3))
