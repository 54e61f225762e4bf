"""Small models of every architecture, with and without ALiBi, whose weights are large enough that wrong ones show."""

import pytest
import torch
from transformers import PreTrainedModel

from cleangpt.config import GPTConfig
from cleangpt.model import get_model
from support.small_gpts import shaken

SIZES = {"block_size": 48, "vocab_size": 60, "n_layer": 3, "n_head": 3, "n_embd": 24}


@pytest.fixture(params=[(name, alibi) for name in ("Vanilla", "SASP", "Factored") for alibi in (False, True)], ids=str)
def fresh_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """With the weights that training begins with."""
    name, alibi = request.param
    torch.manual_seed(0)
    return get_model(name, GPTConfig(**SIZES, alibi=alibi)).eval()


@pytest.fixture
def model(fresh_model: PreTrainedModel) -> PreTrainedModel:
    """With weights as large as those of a trained model."""
    return shaken(fresh_model)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, SIZES["vocab_size"], (2, 20), generator=torch.Generator().manual_seed(1))
