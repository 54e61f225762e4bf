"""Shapes: t rows of one session, N rows that it then holds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from splitlearn.attention.mask import AttentionMask

CPU = torch.device("cpu")
ONE_PIECE: dict[str, Callable[..., Any]] = {
    "everything before": causal_mask_function,
    "window": sliding_window_causal_mask_function(7),
    "window by another hand": and_masks(sliding_window_causal_mask_function(7), causal_mask_function),
    "window of one": sliding_window_causal_mask_function(1),
    "chunks": chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.long)),
}
OTHER: dict[str, Callable[..., Any]] = {
    "every third": lambda _, __, row, other: (other <= row) & ((row - other) % 3 == 0),
    "the first and a few more": lambda _, __, row, other: (other <= row) & ((other == 0) | (row - other < 3)),
    "what comes after": lambda _, __, row, other: other <= row + 1,
    "nothing of itself": lambda _, __, row, other: other < row,
}


@pytest.mark.parametrize("name", ONE_PIECE)
@pytest.mark.parametrize(("position", "count"), [(0, 1), (0, 20), (6, 1), (4, 9), (100, 3)])
def test_rows_that_see_one_piece_say_where_it_begins(name: str, position: int, count: int) -> None:
    mask = AttentionMask(ONE_PIECE[name])
    first_T = mask.first_visible_rows(position, count)
    assert first_T is not None
    rows_N, ends_T = torch.arange(position + count), torch.arange(position, position + count) + 1
    visible_TN = (rows_N >= first_T[:, None]) & (rows_N < ends_T[:, None])
    assert torch.equal(visible_TN, mask.visible(position, count, CPU))


@pytest.mark.parametrize("name", OTHER)
def test_rows_that_see_anything_else_say_so(name: str) -> None:
    assert AttentionMask(OTHER[name]).first_visible_rows(4, 9) is None
