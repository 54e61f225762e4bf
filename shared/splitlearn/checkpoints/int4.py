"""Weights of 4 bits on their way from a checkpoint to a directory, and from there to a part, without becoming numbers.

In place of the tensor NAME a section has `NAME.int4_levels` (uint8 [N, H]), `NAME.int4_scales` (fp16 [N, G]) and,
unless all are 8, `NAME.int4_zeros` (fp16 [N, G]). A weight is `scale * (level - zero)`; K / G inputs are a group.
Where a format has minima in place of zeros, `NAME.int4_minima` has them: a weight is `scale * level + minimum`.
A weight that is tied to one of another section has its numbers there, and may have these beside: a copy for kernels
that read 4 bits.

Shapes: N outputs, K inputs, H bytes of two inputs each, G groups of inputs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from llm_sepweight import TensorSource
from splitlearn.backends.cpu.linear.int4 import BLOCK, SYMMETRIC_ZERO, PackedInt4Weight, pack_levels, zeros_of
from splitlearn.errors import BadCheckpoint

_LEVELS, _SCALES, _ZEROS, _MINIMA = ".int4_levels", ".int4_scales", ".int4_zeros", ".int4_minima"
_BESIDE = (_SCALES, _ZEROS, _MINIMA)


class Int4Groups(NamedTuple):
    """What belongs to groups: numbers of any dtype, [N, G] each. Without zeros and minima all zeros are 8."""

    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    minima: torch.Tensor | None = None


@dataclass(frozen=True)
class Int4Codes:
    """A weight of a checkpoint whose codes are levels of 4 bits, in groups of inputs.

    Attributes:
        group: how many inputs a group has.
        levels: reads them, uint8 [N, K].
        groups: reads what belongs to them.
        in_order: reads whether groups follow one another.
    """

    group: int
    levels: Callable[[], torch.Tensor]
    groups: Callable[[], Int4Groups]
    in_order: Callable[[], bool] = lambda: True

    def obstacle(self) -> str | None:
        """Why the weight cannot be kept; None if it can. Reads scales, and not levels."""
        if self.group % BLOCK:
            return f"groups of {self.group} inputs are no multiple of {BLOCK}"
        if not self.in_order():
            return "act-order deals inputs to groups"
        groups = self.groups()
        if not all(_is_held(numbers) for numbers in groups if numbers is not None):
            return "float16 does not hold the scales"
        if groups.minima is not None and not _is_held(zeros_of(groups.scales, groups.minima)):
            return "no zero stands for a minimum"
        return None

    def sources(self, name: str) -> list[TensorSource]:
        """The tensors in place of the tensor `name` of a section. Reads zeros."""
        groups = self.groups()
        n_outputs, n_groups = groups.scales.shape
        shape = (n_outputs, n_groups * self.group // 2)
        sources = [TensorSource(name + _LEVELS, torch.uint8, shape, lambda: pack_levels(self.levels()))]
        for ending, index in zip(_BESIDE, range(len(groups)), strict=True):
            numbers = groups[index]
            if numbers is not None and (ending != _ZEROS or bool((numbers != SYMMETRIC_ZERO).any())):
                read = partial(self._read, index)
                sources.append(TensorSource(name + ending, torch.float16, (n_outputs, n_groups), read))
        return sources

    def _read(self, index: int) -> torch.Tensor:
        numbers = self.groups()[index]
        if numbers is None:
            raise ValueError(f"the weight has no {_BESIDE[index]}")
        return numbers


def _is_held(numbers: torch.Tensor) -> bool:
    """Whether float16 holds these exactly, and what 16 levels make of them."""
    halves = numbers.half()
    return bool(torch.equal(halves.float(), numbers.float()) and (halves * (2 * SYMMETRIC_ZERO)).isfinite().all())


def packed_weights(
    given: Mapping[str, torch.Tensor], tied: Collection[str] = frozenset()
) -> dict[str, PackedInt4Weight]:
    """The weights of 4 bits among the tensors of sections, by the name that each would have as numbers.

    Args:
        tied: names of tensors that other sections store; such a one may also be here in 4 bits.

    Raises:
        BadCheckpoint: scales are missing or stand alone, or tensors do not belong together.
    """
    names = {key.removesuffix(_LEVELS) for key in given if key.endswith(_LEVELS)}
    for key in given:
        ending = next((each for each in _BESIDE if key.endswith(each)), None)
        if ending is not None and key.removesuffix(ending) not in names:
            raise _fail(key, f"has no {_LEVELS.removeprefix('.')} beside it")
    doubled = next(iter(sorted((names & given.keys()) - set(tied))), None)
    if doubled is not None:
        raise _fail(doubled, "is stored both as numbers and in 4 bits")
    return {name: _packed(name, given) for name in names}


def without_codes(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of sections that are numbers."""
    return {key: tensor for key, tensor in given.items() if not key.endswith((_LEVELS, *_BESIDE))}


def _packed(name: str, given: Mapping[str, torch.Tensor]) -> PackedInt4Weight:
    levels_NH = given[name + _LEVELS]
    scale_NG, zero_NG, min_NG = (given.get(name + ending) for ending in _BESIDE)
    if levels_NH.dtype != torch.uint8 or levels_NH.ndim != 2 or 0 in levels_NH.shape:
        raise _fail(name + _LEVELS, f"should be a matrix of bytes, and is {_outline(levels_NH)}")
    if scale_NG is None:
        raise _fail(name + _LEVELS, f"has no {_SCALES.removeprefix('.')} beside it")
    n_outputs, n_inputs = levels_NH.shape[0], levels_NH.shape[1] * 2
    fits = scale_NG.dtype == torch.float16 and scale_NG.ndim == 2 and scale_NG.shape[0] == n_outputs
    if not fits or scale_NG.shape[1] == 0 or n_inputs % (scale_NG.shape[1] * BLOCK):
        raise _fail(
            name + _SCALES,
            f"should be float16 for {n_outputs} outputs and whole groups of {n_inputs} inputs, and is "
            f"{_outline(scale_NG)}",
        )
    if zero_NG is not None and min_NG is not None:
        raise _fail(name + _LEVELS, "has both zeros and minima beside it")
    for ending, numbers in ((_ZEROS, zero_NG), (_MINIMA, min_NG)):
        if numbers is not None and (numbers.dtype != torch.float16 or numbers.shape != scale_NG.shape):
            raise _fail(name + ending, f"should be float16 {list(scale_NG.shape)}, and is {_outline(numbers)}")
    return PackedInt4Weight(levels_NH, scale_NG, zero_NG, min_NG)


def _outline(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _fail(key: str, reason: str) -> BadCheckpoint:
    return BadCheckpoint(f"{key} {reason}; convert the checkpoint again")
