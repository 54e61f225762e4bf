"""Small models of every architecture and option, whose weights are large enough that wrong ones show."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from support.small_gpts import ARCHITECTURES, label, shaken

_WITH_ALIBI: list[dict[str, Any]] = [
    {"model_type": "Vanilla"},
    {"model_type": "SASP"},
    {"model_type": "SASP", "skip_connections": True, "value_projection": True, "output_projection": False},
    {"model_type": "Factored"},
    {"model_type": "Factored", "head_mixing": False},
]
_ALL = [*ARCHITECTURES, *({**fields, "alibi": True} for fields in _WITH_ALIBI)]

SIZES = {"block_size": 48, "vocab_size": 60, "n_layer": 3, "n_head": 3, "n_embd": 24}


@pytest.fixture(params=_ALL, ids=label)
def fresh_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """With the weights that training begins with."""
    config = GPTConfig(**SIZES, **request.param)
    torch.manual_seed(0)
    return get_model(config.model_type, config).eval()


@pytest.fixture
def model(fresh_model: PreTrainedModel) -> PreTrainedModel:
    """With weights as large as those of a trained model."""
    return shaken(fresh_model)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, SIZES["vocab_size"], (2, 20), generator=torch.Generator().manual_seed(1))
