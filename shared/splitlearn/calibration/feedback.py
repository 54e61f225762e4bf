"""Rounding with error feedback: what rounding one input's weights adds to an output, the next inputs' make up for.

An output is off by the sum of its weights' errors, each times its input; the mean square of that is e H e^T for the
errors e of an output and the inputs' second moments H = E[x x^T]. Inputs are rounded one after the other, and the
weights of those that come are changed so that e H e^T is the least that it can still be. That is GPTQ (Frantar et al.
2022, after Hassibi and Stork 1993), in the order of the inputs; scales and zero points of a group are searched
(`splitlearn.calibration.search`) when its turn comes, on its weights as they are then.

Shapes: N outputs, K inputs, G groups, S inputs of a group.
"""

from typing import Final

import torch

from splitlearn.backends.cpu.linear.int4 import SYMMETRIC_ZERO, Int4Weight, quantize_int4
from splitlearn.calibration.search import search_int4

_GREATEST: Final = 15
_DAMPING: Final = 0.01
"""What is added to each input's mean square, of the mean of all: what few rows say is not taken for certain."""
_NUMBERS_AT_ONCE: Final = 2**24


def round_int4(weight_NK: torch.Tensor, moments_KK: torch.Tensor, group_size: int, *, zero_points: bool) -> Int4Weight:
    """The weight in 4 bits; an output that error feedback serves worse is rounded to the nearest levels.

    So none is off by more than `quantize_int4` makes it, by `output_errors`.

    Args:
        weight_NK: of any floating-point dtype; K is a multiple of `group_size`.
        moments_KK: E[x x^T] of the inputs, in fp32.
        group_size: inputs that share a scale.
        zero_points: whether groups have zero points of their own; they are 8 otherwise.

    Raises:
        BadCheckpoint: a weight, or a moment, is not a finite number.
    """
    passes_KK = _passes(moments_KK)
    found = []
    for some_NK in torch.split(weight_NK, max(1, _NUMBERS_AT_ONCE // weight_NK.shape[1])):
        fed_back = _fed_back(some_NK.float(), moments_KK.diagonal(), passes_KK, group_size, zero_points)
        found.append(_better(some_NK, moments_KK, _nearest(some_NK, group_size, zero_points), fed_back))
    return _joined(found, 0)


def output_errors(weight_NK: torch.Tensor, found: Int4Weight, moments_KK: torch.Tensor) -> torch.Tensor:
    """The mean square of what each output [N] is off by, in fp64. Some outputs at a time, as the head is large."""
    n_outputs = max(1, _NUMBERS_AT_ONCE // weight_NK.shape[1])
    errors = []
    for first in range(0, weight_NK.shape[0], n_outputs):
        some = slice(first, first + n_outputs)
        off_NK = weight_NK[some].float() - found.of_outputs(some).dequantized()
        errors.append(((off_NK @ moments_KK).double() * off_NK.double()).sum(1))
    return torch.cat(errors)


def _nearest(some_NK: torch.Tensor, group_size: int, zero_points: bool) -> Int4Weight:
    nearest = quantize_int4(some_NK, group_size)
    zero_NG = torch.full_like(nearest.scale_NG, SYMMETRIC_ZERO) if zero_points else None
    return Int4Weight(nearest.levels_NK, nearest.scale_NG, zero_NG, group_size)


def _better(weight_NK: torch.Tensor, moments_KK: torch.Tensor, one: Int4Weight, other: Int4Weight) -> Int4Weight:
    """Of each output the one that is off by less."""
    errors_N, other_errors_N = (output_errors(weight_NK, each, moments_KK) for each in (one, other))
    is_other_N1 = (other_errors_N < errors_N)[:, None]
    zero_NG = None
    if one.zero_NG is not None and other.zero_NG is not None:
        zero_NG = torch.where(is_other_N1, other.zero_NG, one.zero_NG)
    levels_NK = torch.where(is_other_N1, other.levels_NK, one.levels_NK)
    return Int4Weight(levels_NK, torch.where(is_other_N1, other.scale_NG, one.scale_NG), zero_NG, one.group_size)


def _fed_back(
    left_NK: torch.Tensor, importance_K: torch.Tensor, passes_KK: torch.Tensor, group_size: int, zero_points: bool
) -> Int4Weight:
    left_NK = left_NK.clone()
    found = []
    for first in range(0, left_NK.shape[1], group_size):
        group = slice(first, first + group_size)
        own_NS = left_NK[:, group].contiguous()
        searched = search_int4(own_NS, importance_K[group], group_size, zero_points=zero_points)
        levels_NS, errors_NS = _round_group(own_NS, searched, passes_KK[group, group])
        left_NK[:, group.stop :] -= errors_NS @ passes_KK[group, group.stop :]
        found.append(Int4Weight(levels_NS, searched.scale_NG, searched.zero_NG, group_size))
    return _joined(found, 1)


def _round_group(
    left_NS: torch.Tensor, searched: Int4Weight, passes_SS: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels, and errors as they are to be passed on. Overwrites `left_NS`."""
    scale_N = searched.scale_NG[:, 0].float()
    zero_N = SYMMETRIC_ZERO if searched.zero_NG is None else searched.zero_NG[:, 0].float()
    levels_NS, errors_NS = torch.empty_like(left_NS, dtype=torch.uint8), torch.empty_like(left_NS)
    for s in range(left_NS.shape[1]):
        level_N = (left_NS[:, s] / scale_N + zero_N).round_().nan_to_num_(0).clamp_(0, _GREATEST)
        error_N = (left_NS[:, s] - (level_N - zero_N) * scale_N) / passes_SS[s, s]
        # of a group that float16 has no scale for, which is then rounded to the nearest
        error_N.nan_to_num_(0, 0, 0)
        left_NS[:, s:] -= error_N[:, None] * passes_SS[s, s:]
        levels_NS[:, s], errors_NS[:, s] = level_N, error_N
    return levels_NS, errors_NS


def _passes(moments_KK: torch.Tensor) -> torch.Tensor:
    """How an input's error passes to those behind it: U [K, K], upper, of the moments' inverse U^T U."""
    mean = moments_KK.diagonal().mean()
    if not mean.isfinite() or mean == 0:
        # of the first the search says what is wrong; without inputs nothing passes
        return torch.eye(len(moments_KK))
    damping, failed = _DAMPING, True
    while failed:
        damped_KK = moments_KK.flip(0, 1) / mean
        damped_KK.diagonal().add_(damping)
        lower_KK, info = torch.linalg.cholesky_ex(damped_KK)
        # fp32 cannot tell it from one that has no inverse
        failed, damping = bool(info > 0), damping * 10
    upper_KK = lower_KK.flip(0, 1)
    passes_KK: torch.Tensor = torch.linalg.solve_triangular(upper_KK, torch.eye(len(upper_KK)), upper=True)
    return passes_KK


def _joined(found: list[Int4Weight], dim: int) -> Int4Weight:
    """Weights of some outputs (0), or of some inputs (1), as one."""
    zeros = [each.zero_NG for each in found if each.zero_NG is not None]
    levels_NK = torch.cat([each.levels_NK for each in found], dim)
    scale_NG = torch.cat([each.scale_NG for each in found], dim)
    return Int4Weight(levels_NK, scale_NG, torch.cat(zeros, dim) if zeros else None, found[0].group_size)
