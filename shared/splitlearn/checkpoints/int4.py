"""Weights of 4 bits on their way from a checkpoint to a directory, and from there to a part, without becoming numbers.

In place of the tensor NAME a section has `NAME.int4_levels` (uint8 [N, H]), `NAME.int4_scales` (fp16 [N, G]) and,
unless all are 8, `NAME.int4_zeros` (fp16 [N, G]). A weight is `scale * (level - zero)`; K / G inputs are a group.

Shapes: N outputs, K inputs, H bytes of two inputs each, G groups of inputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from llm_sepweight import TensorSource
from splitlearn.backends.cpu.linear.int4 import BLOCK, SYMMETRIC_ZERO, PackedInt4Weight, pack_levels
from splitlearn.errors import BadCheckpoint

_LEVELS, _SCALES, _ZEROS = ".int4_levels", ".int4_scales", ".int4_zeros"

ScalesAndZeros = tuple[torch.Tensor, torch.Tensor | None]
"""Scales [N, G] and zeros [N, G]; None: all are 8."""


@dataclass(frozen=True)
class Int4Codes:
    """A weight of a checkpoint whose codes are levels of 4 bits, in groups of inputs.

    Attributes:
        group: how many inputs a group has.
        levels: reads them, uint8 [N, K].
        grid: reads scales and zeros.
        in_order: reads whether groups follow one another.
    """

    group: int
    levels: Callable[[], torch.Tensor]
    grid: Callable[[], ScalesAndZeros]
    in_order: Callable[[], bool] = lambda: True

    def obstacle(self) -> str | None:
        """Why the weight cannot be kept; None if it can. Reads scales, and not levels."""
        if self.group % BLOCK:
            return f"groups of {self.group} inputs are no multiple of {BLOCK}"
        if not self.in_order():
            return "act-order deals inputs to groups"
        if not all(_fits(numbers) for numbers in self.grid() if numbers is not None):
            return "float16 does not hold the scales"
        return None

    def sources(self, name: str) -> list[TensorSource]:
        """The tensors in place of the tensor `name` of a section. Reads zeros."""
        scale_NG, zero_NG = self.grid()
        n_outputs, n_groups = scale_NG.shape
        levels = (n_outputs, n_groups * self.group // 2)
        sources = [
            TensorSource(name + _LEVELS, torch.uint8, levels, lambda: pack_levels(self.levels())),
            TensorSource(name + _SCALES, torch.float16, (n_outputs, n_groups), lambda: self._read(0)),
        ]
        if zero_NG is not None and bool((zero_NG != SYMMETRIC_ZERO).any()):
            sources.append(TensorSource(name + _ZEROS, torch.float16, (n_outputs, n_groups), lambda: self._read(1)))
        return sources

    def _read(self, which: int) -> torch.Tensor:
        numbers = self.grid()[which]
        if numbers is None:
            raise ValueError("there are no zeros to be read")
        return numbers


def _fits(numbers: torch.Tensor) -> bool:
    """Whether float16 holds these, and a weight's numbers with them."""
    halves = numbers.half()
    return bool(torch.equal(halves.float(), numbers.float()) and (halves * (2 * SYMMETRIC_ZERO)).isfinite().all())


def packed_weights(given: Mapping[str, torch.Tensor]) -> dict[str, PackedInt4Weight]:
    """The weights of 4 bits among the tensors of sections, by the name that each would have as numbers.

    Raises:
        BadCheckpoint: scales are missing or stand alone, or tensors do not belong together.
    """
    names = {key.removesuffix(_LEVELS) for key in given if key.endswith(_LEVELS)}
    for key in given:
        ending = next((each for each in (_SCALES, _ZEROS) if key.endswith(each)), None)
        if ending is not None and key.removesuffix(ending) not in names:
            raise _fail(key, f"has no {_LEVELS.removeprefix('.')} beside it")
    return {name: _packed(name, given) for name in names}


def without_codes(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of sections that are numbers."""
    return {key: tensor for key, tensor in given.items() if not key.endswith((_LEVELS, _SCALES, _ZEROS))}


def _packed(name: str, given: Mapping[str, torch.Tensor]) -> PackedInt4Weight:
    levels_NH, scale_NG, zero_NG = given[name + _LEVELS], given.get(name + _SCALES), given.get(name + _ZEROS)
    if name in given:
        raise _fail(name, "is stored both as numbers and in 4 bits")
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
    if zero_NG is not None and (zero_NG.dtype != torch.float16 or zero_NG.shape != scale_NG.shape):
        raise _fail(name + _ZEROS, f"should be float16 {list(scale_NG.shape)}, and is {_outline(zero_NG)}")
    return PackedInt4Weight(levels_NH, scale_NG, zero_NG)


def _outline(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _fail(key: str, reason: str) -> BadCheckpoint:
    return BadCheckpoint(f"{key} {reason}; convert the checkpoint again")
