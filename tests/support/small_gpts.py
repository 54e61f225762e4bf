"""Small models of cleangpt: all that there are, and weights that are large enough that wrong ones would show."""

from itertools import product
from typing import Any

import torch
from transformers import PreTrainedModel

_SASP_OPTIONS = ("skip_connections", "value_projection", "output_projection")
ARCHITECTURES: list[dict[str, Any]] = [
    {"model_type": "Vanilla"},
    *(
        {"model_type": "SASP", **dict(zip(_SASP_OPTIONS, switches, strict=True))}
        for switches in product((False, True), repeat=3)
    ),
    *({"model_type": "Factored", "head_mixing": switch} for switch in (True, False)),
]
"""Fields of GPTConfig: every architecture with every combination of the options that not all of them have."""


def label(fields: dict[str, Any]) -> str:
    """Fields of GPTConfig as a test's id."""
    return "-".join(name if value is True else str(value) for name, value in fields.items() if value is not False)


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """The model with random weights as large as those of a trained one, from the same seed every time."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "mixing" in name:  # weighs whole heads
                parameter.copy_(noise)
            elif parameter.ndim > 1:
                parameter.copy_(0.15 * noise)
            else:
                parameter.add_(0.1 * noise)
    return model
