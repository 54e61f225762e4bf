"""With copied weights, options make our models compute what the original cleanGPT computes.

Shapes: T rows.
"""

from itertools import product
from typing import Any

import pytest
import torch

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from support.original_gpts import (
    CONTEXT,
    N_HEADS,
    N_LAYERS,
    VOCABULARY,
    WIDTH,
    FactoredLayer,
    Original,
    SASPLayer,
    copy_into,
)

IDS_T = torch.tensor([3, 17, 5, 5, 0, 39, 21, 8, 11, 2, 30, 4])
SIZES = {"block_size": CONTEXT, "vocab_size": VOCABULARY, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_embd": WIDTH}


@torch.no_grad()
def difference(original: Original, dtype: torch.dtype = torch.float64, **fields: Any) -> float:
    """The largest one between logits, with the original's weights rounded to `dtype`."""
    config = GPTConfig(**SIZES, **fields)
    model = get_model(config.model_type, config).double().eval()
    copy_into(model, original)
    expected_TV = original.logits(IDS_T)
    assert expected_TV.std() > 0.1  # the comparison would mean nothing if all logits were alike
    return float((model.to(dtype)(IDS_T[None]).logits[0] - expected_TV).abs().max())


@pytest.mark.parametrize(("skips", "has_values", "has_projection"), [*product((False, True), repeat=3)])
def test_sasp_is_the_original_s_with_and_without_skips_values_and_projection(
    skips: bool, has_values: bool, has_projection: bool
) -> None:
    torch.manual_seed(0)
    original = Original.of([SASPLayer(skips, has_values, has_projection) for _ in range(N_LAYERS)])
    fields = {"model_type": "SASP", "value_projection": has_values, "output_projection": has_projection}
    assert difference(original, **fields, skip_connections=skips) < 1e-9
    assert difference(original, torch.float32, **fields, skip_connections=skips) < 1e-6
    assert difference(original, **fields, skip_connections=not skips) > 0.1


@pytest.mark.parametrize("alibi", [False, True])
def test_factored_without_head_mixing_is_the_original_s(alibi: bool) -> None:
    torch.manual_seed(0)
    original = Original.of([FactoredLayer(alibi) for _ in range(N_LAYERS)], alibi=alibi)
    fields = {"model_type": "Factored", "alibi": alibi}
    assert difference(original, **fields, head_mixing=False) < 1e-9
    assert difference(original, torch.float32, **fields, head_mixing=False) < 1e-6
    # mixing starts with an output over the root of twice the layers, and copying leaves it
    assert difference(original, **fields, head_mixing=True) > 0.1
