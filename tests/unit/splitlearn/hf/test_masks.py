from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from splitlearn.hf.cache import named_cache
from splitlearn.hf.masks import is_causal, window_of
from support.tiny_models import random_model, tiny_config


def test_the_plain_causal_mask_is_told_from_others() -> None:
    assert is_causal(causal_mask_function)
    assert not is_causal(sliding_window_causal_mask_function(7))


@pytest.mark.parametrize("window", [1, 7, 4096])
def test_a_window_tells_its_width(window: int) -> None:
    assert window_of(sliding_window_causal_mask_function(window)) == window


@pytest.mark.parametrize(
    "function",
    [
        causal_mask_function,
        chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.long)),
        and_masks(sliding_window_causal_mask_function(7), causal_mask_function),
        lambda _, __, row, other: (other <= row) & (row - other < 7),
    ],
)
def test_what_says_more_or_other_than_a_window_has_none(function: Any) -> None:
    assert window_of(function) is None


@pytest.mark.parametrize(("model_type", "windows"), [("llama", set()), ("mistral", {16}), ("gemma2", {16})])
def test_the_masks_that_models_ask_for_are_understood(model_type: str, windows: set[int]) -> None:
    asked: list[Any] = []
    AttentionInterface.register("noted", lambda _, query, *__, **___: (query.transpose(1, 2), None))
    AttentionMaskInterface.register("noted", lambda *, mask_function, **_: asked.append(mask_function))
    model = random_model(tiny_config(model_type))
    model.set_attn_implementation("noted")
    model(torch.arange(40)[None], **named_cache(DynamicCache()))
    assert asked
    assert {window_of(each) for each in asked if not is_causal(each)} == windows
