"""The linear layers of one part, and what prompts make of their inputs.

Shapes: T rows of a prompt, D hidden size, N outputs, K inputs.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from llm_sepweight.layout import END, place, section_name
from splitlearn.backends.cpu.linear.int4 import BLOCK, Int4Weight
from splitlearn.hf.modeling import has_inputs_first, linear_weight, weights_read
from splitlearn.model.part import Part
from splitlearn.torch_private import own_parameters

_WEIGHT = "weight"


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer of a part.

    Attributes:
        section, name: where its weight is stored.
    """

    module: nn.Module
    section: str
    name: str

    @property
    def place(self) -> str:
        """Where its weight is stored, in one word."""
        return place(self.section, self.name)

    @property
    def weight_NK(self) -> torch.Tensor:  # noqa: N802 - a shape
        """Its numbers."""
        weight_NK = linear_weight(self.module)
        if weight_NK is None:
            raise TypeError(f"{self.place} is the weight of no linear layer")
        return weight_NK.detach()

    def replace_weight(self, weight: Int4Weight) -> None:
        """Lets the layer compute with what a weight of 4 bits stands for."""
        numbers_NK = weight.dequantized().to(self.weight_NK.dtype)
        numbers = numbers_NK.t().contiguous() if has_inputs_first(self.module) else numbers_NK
        own_parameters(self.module)[_WEIGHT] = nn.Parameter(numbers, requires_grad=False)


@dataclass(frozen=True)
class FoundLayers:
    """Those that can be held in 4 bits; and by reason, the places of the weights of those that cannot."""

    layers: Sequence[LinearLayer]
    left: Mapping[str, Sequence[str]]


def linear_layers(part: Part, homes: Collection[str], group_size: int) -> FoundLayers:
    """The linear layers of a part.

    Args:
        homes: places of tensors that others are tied to.
        group_size: inputs of a group.
    """
    read = weights_read(part.model)
    layers: list[LinearLayer] = []
    left: dict[str, list[str]] = {}
    for path, module in part.model.named_modules():
        if linear_weight(module) is None:
            continue
        kind, index, name = part.layout.place(f"{path}.{_WEIGHT}")
        section = kind if index is None else section_name(index + part.layers.start)
        layer = LinearLayer(module, section, name)
        reason = _obstacle(layer, path, homes, read, group_size)
        if reason is None:
            layers.append(layer)
        else:
            left.setdefault(reason, []).append(layer.place)
    return FoundLayers(layers, left)


def _obstacle(
    layer: LinearLayer, path: str, homes: Collection[str], read: Collection[str], group_size: int
) -> str | None:
    if layer.place in homes:
        return "others are tied to them"
    if path.rpartition(".")[2] in read:
        return "the model's code reads them itself"
    n_inputs = layer.weight_NK.shape[1]
    if n_inputs % BLOCK or n_inputs % group_size:
        return f"their inputs are no multiple of {group_size}"
    return None


def second_moments(
    part: Part, layers: Sequence[LinearLayer], prompts: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """E[x x^T] of the inputs [K, K] of some layers, by their places, in fp32, over all rows that come to them.

    All zero for a layer that no row comes to, as an expert that is never chosen.

    Args:
        prompts: as for `run`.
    """
    sums_KK = {layer.place: torch.zeros([layer.weight_NK.shape[1]] * 2) for layer in layers}
    counts = dict.fromkeys(sums_KK, 0)
    # siblings such as queries, keys and values are called with one tensor
    last: list[torch.Tensor] = []

    def note(key: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not last or last[0] is not inputs[0]:
            rows_TK = inputs[0].flatten(0, -2).float()
            last[:] = inputs[0], rows_TK.t() @ rows_TK
        sums_KK[key] += last[1]
        counts[key] += inputs[0].shape[:-1].numel()

    handles = [layer.module.register_forward_pre_hook(partial(note, layer.place)) for layer in layers]
    for _ in run(part, prompts, to_head=any(layer.section == END for layer in layers)):
        last.clear()
    for handle in handles:
        handle.remove()
    return {key: sum_KK.div_(max(1, counts[key])) for key, sum_KK in sums_KK.items()}


def run(part: Part, prompts: Sequence[torch.Tensor], *, to_head: bool = False) -> Iterator[torch.Tensor]:
    """Runs each prompt through the part, from its beginning: token ids [T] or rows [T, D].

    Args:
        to_head: whether a part that ends the model runs its head for all rows.

    Yields:
        Rows [T, D], or what the head makes of them.
    """
    for rows in prompts:
        yield part(rows, 0, part.new_cache(), wanted="all" if to_head else "last")
