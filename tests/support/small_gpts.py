"""Weights for small models of cleangpt that are large enough that wrong ones would show."""

import torch
from transformers import PreTrainedModel


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
