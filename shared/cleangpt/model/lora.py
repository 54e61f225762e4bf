"""LoRA by peft: of a linear layer's weight only an update of low rank is trained.

Shapes: O outputs and I inputs of a linear layer, R the rank of its update.
"""

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import Conv1D

from cleangpt.errors import PackageMissingError

if TYPE_CHECKING:
    from peft import LoraModel


def linear_weights(model: nn.Module, inside: Iterable[nn.Module]) -> dict[str, Tensor]:
    """The weights of the linear layers in some of the model's modules, by the layers' paths in the model."""
    parts = {id(each) for module in inside for each in module.modules()}
    return {
        path: each.weight
        for path, each in model.named_modules()
        if id(each) in parts and isinstance(each, nn.Linear | Conv1D)
    }


def add_lora(model: nn.Module, targets: Iterable[str], rank: int, alpha: int) -> "LoraModel":
    """Lets the weights W_OI of linear layers be W_OI + alpha / R * (B_OR @ A_RI), and only A and B be trained.

    The model is changed in place. A is drawn from torch's generator, and B is 0, so that the outputs are those of
    before. `merge_and_unload` of what is returned adds the updates to the weights, and leaves a model without them.

    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.

    Args:
        targets: paths of linear layers in the model.

    Raises:
        PackageMissingError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise PackageMissingError('updates of low rank need the package peft: pip install "splitlearn[lora]"')
    # takes seconds, and a training of whole weights does without
    from peft import LoraConfig, LoraModel

    paths = list(targets)
    # else peft warns that it transposes
    is_transposed = any(isinstance(model.get_submodule(path), Conv1D) for path in paths)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths, fan_in_fan_out=is_transposed)
    return LoraModel(model, config, "default")
