import torch
from transformers import DynamicCache

from splitlearn.hf.authoring import (
    attention_function,
    can_return_tuple,
    capture_outputs,
    causal_mask,
    init,
    rows_to_keep,
)
from support.tiny_models import tiny_config


def test_a_mask_is_that_of_the_attention_that_was_chosen() -> None:
    config, rows = tiny_config("llama"), torch.zeros(1, 3, 64)
    padded = torch.tensor([[0, 1, 1]])
    config._attn_implementation = "eager"
    mask = causal_mask(config, rows, padded, DynamicCache(config=config), None)
    assert (mask[0, 0] == 0).tolist() == [[False] * 3, [False, True, False], [False, True, True]]
    config._attn_implementation = "sdpa"
    assert causal_mask(config, rows, None, None, None) is None


def test_the_attention_of_a_config_is_found_by_its_name() -> None:
    config, own = tiny_config("llama"), object()
    config._attn_implementation = "eager"
    assert attention_function(config, own) is own
    config._attn_implementation = "sdpa"
    assert attention_function(config, own) is not own


def test_a_head_gets_the_last_rows_or_those_that_are_named() -> None:
    rows = torch.arange(5)[None, :, None]
    assert rows_to_keep(rows, 0).flatten().tolist() == [0, 1, 2, 3, 4]
    assert rows_to_keep(rows, 2).flatten().tolist() == [3, 4]
    assert rows_to_keep(rows, torch.tensor([1, 4])).flatten().tolist() == [1, 4]


def test_what_models_are_decorated_and_filled_with_is_there() -> None:
    assert callable(can_return_tuple)
    assert callable(capture_outputs)
    tensor = torch.zeros(2, 2)
    init.eye_(tensor)
    assert torch.equal(tensor, torch.eye(2))
    tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    init.zeros_(tensor)
    assert torch.equal(tensor, torch.eye(2))
