"""A shadow as a part that engines run, beside others; what `splitlearn client` guesses with.

The entry point `cleangpt_shadow` of the group `splitlearn_client.shadows` names `open_shadow_part`.
"""

from pathlib import Path

import torch
from torch import nn

from cleangpt.model.shadow import Shadow
from cleangpt.model.shadow_folder import load_shadow
from llm_sepweight import PartSpec, PartStateDict
from splitlearn.checkpoints.load import fill
from splitlearn.model.part import Part, cut
from splitlearn.runner.shadowed import ShadowPart


def open_shadow_part(folder: Path, device: torch.device, dtype: torch.dtype) -> ShadowPart:
    """Loads the shadow in a folder.

    Args:
        device: where it is run.
        dtype: of the rows of bottom and top, in which it computes.

    Raises:
        ShadowFolderError: files are missing or damaged.
    """
    return as_part(load_shadow(folder), device, dtype)


def as_part(shadow: Shadow, device: torch.device, dtype: torch.dtype) -> ShadowPart:
    """The same shadow; its layers have weights of their own."""
    shadow = shadow.to(device=device, dtype=dtype)
    part = _layers_of(shadow, device, dtype) if shadow.config.num_hidden_layers else None
    if isinstance(shadow.exit, nn.Identity):
        return ShadowPart(part, shadow.entrance)
    return ShadowPart(part, shadow.entrance, nn.Sequential(shadow.stack.norm, shadow.exit))


def _layers_of(shadow: Shadow, device: torch.device, dtype: torch.dtype) -> Part:
    config = shadow.config.stack
    # transformers makes derived buffers in it
    config.dtype = dtype
    part = cut(config, PartSpec(begin=False, layers=(range(config.num_hidden_layers),), end=False))
    tensors = {number: layer.state_dict() for number, layer in enumerate(shadow.stack.layers)}
    fill(part, PartStateDict(None, tensors, None), device, dtype)
    return part
