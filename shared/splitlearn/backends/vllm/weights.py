"""A part's tensors under the names that they have in a Hugging Face checkpoint, which vLLM's models load."""

from collections.abc import Iterator
from pathlib import Path

import torch

from llm_sepweight import load
from splitlearn.hf.conversion import as_in_checkpoint
from splitlearn.model.part import Part


def checkpoint_tensors(directory: Path, part: Part) -> Iterator[tuple[str, torch.Tensor]]:
    """Layer by layer, mapped rather than read; experts that the part holds stacked come one by one.

    Args:
        directory: a sepweight directory.
        part: need not be filled; its layers are those that are read.

    Raises:
        SepweightError: files missing, truncated or unreadable.
    """
    layers = load(directory, part.spec).mid
    for index in sorted(layers):
        named = {f"{part.layout.layers}.{index}.{name}": tensor for name, tensor in layers[index].items()}
        yield from as_in_checkpoint(part.model, named).items()
