"""Levels, scales and zero points of 4 bits that keep what a weight does to its inputs, not only the weight.

An output is off by the sum of its weights' errors, each times its input. Where inputs are not correlated, the mean
square of that is the sum over inputs of E[x^2] times the squared error of the weight, so E[x^2] says how much a weight
matters (Hassibi and Stork 1993, the diagonal of the Hessian; Lin et al. 2023, AWQ, find the weights that matter by the
same means). For each group of inputs a range is searched that is smaller than that of its weights, and the scale, and
the zero point, are then fitted to the levels by weighted least squares, in turns.

Shapes: N outputs, K inputs, G groups, S inputs of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from splitlearn.backends.cpu.linear.int4 import SYMMETRIC_ZERO, Int4Weight, quantize_int4
from splitlearn.errors import BadCheckpoint

_GREATEST: Final = 15
_FACTORS: Final = (1.1, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
"""Of the range that a group's weights span: how much of it the levels do."""
_FITS: Final = 2
"""How often the scale is fitted to the levels, and the levels to the scale."""
_MOST_ZERO: Final = 4094
"""The greatest zero point that float16 holds sixteen times."""
_NUMBERS_AT_ONCE: Final = 2**20


def search_int4(
    weight_NK: torch.Tensor, importance_K: torch.Tensor, group_size: int, *, zero_points: bool
) -> Int4Weight:
    """The weight in 4 bits whose error, each input's counted by its importance, is the least that was found.

    It is never greater than that of `quantize_int4`.

    Args:
        weight_NK: of any floating-point dtype; K is a multiple of `group_size`.
        importance_K: the mean square of each input, or any multiple of it; nothing but zeros counts as all equal.
        group_size: inputs that share a scale.
        zero_points: whether groups have zero points of their own; they are 8 otherwise.

    Raises:
        BadCheckpoint: a weight, or an importance, is not a finite number.
    """
    if not (weight_NK.isfinite().all() and importance_K.isfinite().all()):
        raise BadCheckpoint("a weight or one of its inputs is not finite: it cannot be quantized")
    importance_GS = _comparable(importance_K.double().view(-1, group_size))
    n_outputs = max(1, _NUMBERS_AT_ONCE // weight_NK.shape[1])
    found = [
        _search(some_NK.float(), importance_GS, group_size, zero_points)
        for some_NK in torch.split(weight_NK, n_outputs)
    ]
    levels = torch.cat([each.levels for each in found])
    zeros_NG = torch.cat([each.zero for each in found]).squeeze(2)
    scales_NG = torch.cat([each.scale for each in found]).squeeze(2)
    return Int4Weight(
        levels.flatten(1).to(torch.uint8), scales_NG.half(), zeros_NG.half() if zero_points else None, group_size
    )


def _comparable(importance_GS: torch.Tensor) -> torch.Tensor:
    """In fp32, with 1 as the greatest of each group; all 1 where all are nothing."""
    greatest_G1 = importance_GS.amax(1, keepdim=True)
    return torch.where(greatest_G1 > 0, importance_GS / greatest_G1, torch.ones_like(importance_GS)).float()


@dataclass(frozen=True)
class _Found:
    """What stands for some groups. All in fp32, scales and zeros as float16 has them.

    Attributes:
        levels: [N, G, S].
        scale, zero, error: [N, G, 1]; the error is infinite where a number is too great for float16.
    """

    levels: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    error: torch.Tensor

    def or_better(self, other: "_Found") -> "_Found":
        """Of each group the one with the smaller error."""
        better = other.error < self.error
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in vars(self))
        return _Found(**{name: torch.where(better, theirs, own) for name, own, theirs in pairs})


@dataclass(frozen=True)
class _Groups:
    """Weights of some outputs by groups, [N, G, S] in fp32, and their inputs' importance, [G, S]."""

    weights: torch.Tensor
    importance: torch.Tensor
    unit: torch.Tensor
    """What errors are counted in, [N, G, 1]: the greatest of a group, so that squares of all numbers are finite."""

    def rounded(self, scale: torch.Tensor, zero: torch.Tensor) -> _Found:
        """Each weight at its nearest level."""
        scale, zero = scale.half().float(), zero.half().float()
        levels = (self.weights / scale).add_(zero).round_().nan_to_num_(0).clamp_(0, _GREATEST)
        return self.judged(levels, scale, zero)

    def judged(self, levels: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> _Found:
        off = (self.weights - (levels - zero) * scale).div_(self.unit)
        error = off.square_().mul_(self.importance).sum(2, keepdim=True)
        held = (scale != 0) & scale.mul(16).half().isfinite() & (zero.abs() <= _MOST_ZERO)
        return _Found(levels, scale, zero, torch.where(held, error, torch.inf).nan_to_num_(torch.inf, torch.inf))

    def fitted(self, found: _Found) -> _Found:
        """The scale that suits the levels best, and each weight at its nearest level then."""
        steps = found.levels - found.zero
        scale = self._sum(steps * self.weights) / self._sum(steps.square())
        return self.rounded(scale, found.zero)

    def fitted_with_zero(self, found: _Found) -> _Found:
        """The same with the zero point: a line through levels and weights."""
        total = self.importance.sum(1, keepdim=True)
        mean_level = self._sum(found.levels) / total
        mean_weight = self._sum(self.weights / self.unit) / total
        from_mean = found.levels - mean_level
        slope = self._sum(from_mean * (self.weights / self.unit - mean_weight)) / self._sum(from_mean.square())
        return self.rounded(slope * self.unit, mean_level - mean_weight / slope)

    def _sum(self, numbers: torch.Tensor) -> torch.Tensor:
        return (numbers * self.importance).sum(2, keepdim=True)


def _search(some_NK: torch.Tensor, importance_GS: torch.Tensor, group_size: int, zero_points: bool) -> _Found:
    weights = some_NK.view(some_NK.shape[0], -1, group_size)
    greatest = weights.abs().amax(2, keepdim=True)
    groups = _Groups(weights, importance_GS, torch.where(greatest > 0, greatest, torch.ones_like(greatest)))
    best = _nearest(groups, some_NK, group_size)
    for candidate in _symmetric(groups):
        best = best.or_better(candidate)
    if zero_points:
        for candidate in _with_zeros(groups):
            best = best.or_better(candidate)
    for _ in range(_FITS):
        best = best.or_better(groups.fitted_with_zero(best) if zero_points else groups.fitted(best))
    return best


def _nearest(groups: _Groups, some_NK: torch.Tensor, group_size: int) -> _Found:
    """What `quantize_int4` makes of them."""
    nearest = quantize_int4(some_NK, group_size)
    levels = nearest.levels_NK.float().view_as(groups.weights)
    scale = nearest.scale_NG.float()[:, :, None]
    return groups.judged(levels, scale, torch.full_like(scale, SYMMETRIC_ZERO))


def _symmetric(groups: _Groups) -> Iterator[_Found]:
    """With 8 as zero, which leaves one level more on one side: on that of the greatest weight, and on the other."""
    weights = groups.weights
    greatest = weights.gather(2, weights.abs().argmax(2, keepdim=True))
    eight = torch.full_like(greatest, SYMMETRIC_ZERO)
    for most in (-SYMMETRIC_ZERO, _GREATEST - SYMMETRIC_ZERO):
        for factor in _FACTORS:
            found = groups.rounded(greatest * (factor / most), eight)
            yield found.or_better(groups.fitted(found))


def _with_zeros(groups: _Groups) -> Iterator[_Found]:
    """From the least weight to the greatest, or a part of that, about its middle."""
    least, greatest = groups.weights.amin(2, keepdim=True), groups.weights.amax(2, keepdim=True)
    # halves, as their difference might be too great
    middle, reach = least / 2 + greatest / 2, greatest / 2 - least / 2
    for factor in _FACTORS:
        scale = reach * (2 * factor / _GREATEST)
        found = groups.rounded(scale, _GREATEST / 2 - middle / scale)
        yield found.or_better(groups.fitted_with_zero(found))
